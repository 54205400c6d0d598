package signal

import "slices"

// Sources number what they send, not who says it. The order of one sender over its own moves rests on waiting: a
// node that gives a participant away first waits until all that it has said is answered, so what it says at the next
// node comes behind. There are two ways around that. Who is adopted was not given away, and its former node may live, and
// pass on late what it had taken. And what was for a receiver that moves at the same time waits at the node that
// it has left. So a receiver remembers by which connection of a sender it has heard last, and
// what an older one has said is too late. Then it is missing, which is told, unless it has come under the same
// id.

// voice is the newest connection by which a sender was heard.
type voice struct {
	User  string `json:"user"`
	Epoch uint64 `json:"epoch"`
}

// fewVoices is how many voices are kept without a look whether all of them are still in the room.
const fewVoices = 16

// hear queues a message, unless its sender was heard by a newer connection.
func (l *localMember) hear(h heldMessage) {
	if l.isLate(h) {
		l.lack(h, "a message came after later ones of its sender")
		return
	}
	if l.participant.srv.peers != nil {
		l.learn(h)
	}
	l.participant.sendOnce(h.Frame, h.Key)
}

// isLate reports whether the sender of a message was heard by a newer connection, and else notes this one.
func (l *localMember) isLate(h heldMessage) bool {
	if h.Epoch == 0 {
		return false // A node of protocol 1 does not say.
	}
	i := slices.IndexFunc(l.voices, func(v voice) bool { return v.User == h.From })
	if i < 0 {
		if len(l.voices) >= max(fewVoices, 2*len(l.told)) {
			l.voices = slices.DeleteFunc(l.voices, func(v voice) bool { return !l.knows(v.User) })
		}
		l.voices = append(l.voices, voice{h.From, h.Epoch})
		return false
	}
	late := h.Epoch < l.voices[i].Epoch
	l.voices[i].Epoch = max(l.voices[i].Epoch, h.Epoch)
	return late
}

// lack drops a message. Unless its client has got it under the same id, it learns that something is missing.
func (l *localMember) lack(h heldMessage, why string) {
	if l.participant.hasHeard(h.Key) {
		l.participant.srv.metrics.duplicates.Inc()
		return
	}
	l.participant.srv.metrics.gaps.Inc()
	l.participant.log.Debug("a message is missing", "from", h.From, "joined", h.Joined, "epoch", h.Epoch, "version", l.room.version, "reason", why)
	l.participant.miss(why)
}
