#compdef signal
# zsh completion for signal: the executable itself knows its commands and flags.
_signal() {
  local -a known before
  before=(${words[1,CURRENT-1]})
  [[ ${words[CURRENT]} == -* ]] && before+=(${words[CURRENT]})
  known=("${(@f)$($before --generate-bash-completion 2>/dev/null)}")
  [[ -n ${known[1]} ]] && _describe signal known || _files
}
compdef _signal signal
