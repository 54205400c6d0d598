package signal_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"cline-meet/signal/signal/client"
	"cline-meet/signal/state/redistest"
)

// TestKickAfterTheDeathOfItsNode kills a node and kicks its member at another: the room is told at once, and a node that starts then lets it
// back into no room.
func TestKickAfterTheDeathOfItsNode(t *testing.T) {
	const token = "a token of the owner"
	redis := redistest.Start(t)
	nodes := startNodes(t, 2, redis, "--admin-token", token, "--resume-grace", "3600")
	stays, orphan := enter(t, nodes[0], "r"), enter(t, nodes[1], "r")
	both := []*member{stays, orphan}
	eventually(t, "both are there", func() error { return allSee(both, usersOf(both...)) })
	nodes[1].Kill()
	eventually(t, "the member is kicked", func() error {
		r, err := http.NewRequest(http.MethodPost, "http://"+nodes[0].Admin+"/v1/users/"+orphan.user+"/kick", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", answer.Status) // As long as the node is not known as dead.
		}
		return nil
	})
	eventually(t, "it has left", func() error { return stays.sees([]string{stays.user}) })
	stays.mu.Lock()
	left := slices.Clone(stays.left)
	stays.mu.Unlock()
	if !slices.Equal(left, []string{orphan.user}) {
		t.Errorf("%v have left", left)
	}
	later := startNodes(t, 1, redis, "--resume-grace", "3600")[0]
	orphan.reading.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	back, err := orphan.conn.Resume(ctx, later.URL+"ws", nil)
	if err != nil {
		t.Fatal(err)
	}
	m := &member{t: t, conn: back, answers: map[string]string{}}
	m.reading.Go(m.read)
	m.say(client.Message{Type: "leave_room", ID: "x"})
	if answer := m.answer("x"); answer != "error 409" {
		t.Errorf("it is in a room: %s", answer)
	}
	_ = back.Close()
	m.reading.Wait()
}
