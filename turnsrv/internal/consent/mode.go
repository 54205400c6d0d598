package consent

// Mode is what a peer has to show before a relay sends to it. A greater one asks for more.
type Mode uint8

// The modes.
const (
	Off  Mode = iota // Off asks for nothing.
	STUN             // STUN asks for an answer to the client's check, of anybody.
	Room             // Room asks for an answer that a member of the owner's room has signed.
)

var modes = [...]string{"off", "stun", "room"}

// Modes are the names of all modes, the least first.
func Modes() []string { return modes[:] }

// String returns the name of a mode.
func (m Mode) String() string { return modes[m] }

// ModeOf returns the mode of a name, Off for one that there is not.
func ModeOf(name string) Mode {
	for m, known := range modes {
		if known == name {
			return Mode(m)
		}
	}
	return Off
}
