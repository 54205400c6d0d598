package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// serveFloor sends every message back that it gets, as a server does that needs nothing but its
// WebSocket library, until ctx ends.
func serveFloor(ctx context.Context, listen string) error {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	var clients sync.WaitGroup
	server := &http.Server{Addr: listen, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clients.Add(1) // Before the upgrade, up to which Shutdown waits.
		defer clients.Done()
		if ws, err := upgrader.Upgrade(w, r, nil); err == nil { // Otherwise the upgrader has answered.
			echo(ctx, ws)
		}
	})}
	stopped := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = server.Shutdown(context.WithoutCancel(ctx))
	})
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the echo: %w", err)
	}
	<-stopped
	clients.Wait()
	return nil
}

// echo sends back what comes until the connection or ctx ends.
func echo(ctx context.Context, ws *websocket.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = ws.Close() })
	defer stop()
	defer func() { _ = ws.Close() }()
	for {
		kind, text, err := ws.ReadMessage()
		if err != nil || ws.WriteMessage(kind, text) != nil {
			return
		}
	}
}
