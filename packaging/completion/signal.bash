# bash completion for signal: the executable itself knows its commands and flags.
_signal() {
  local cur=${COMP_WORDS[COMP_CWORD]} before=("${COMP_WORDS[@]:0:COMP_CWORD}")
  [[ $cur == -* ]] && before+=("$cur")
  mapfile -t COMPREPLY < <(compgen -W "$("${before[@]}" --generate-bash-completion 2>/dev/null | cut -d: -f1)" -- "$cur")
}
complete -o default -F _signal signal
