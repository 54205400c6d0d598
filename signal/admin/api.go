package admin

import (
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	jsonv2 "github.com/go-json-experiment/json"
)

// maxBody is what a request may carry.
const maxBody = 64 << 10

// register serves the API and its document.
func (s *Server) register(mux *http.ServeMux) {
	api := humago.New(mux, config(s.parts.Version))
	api.UseMiddleware(func(ctx huma.Context, next func(huma.Context)) {
		ctx.SetHeader("Cache-Control", "no-store")
		ctx.SetHeader("X-Content-Type-Options", "nosniff")
		op := ctx.Operation()
		if least := roleOf(op); callerOf(ctx.Context()).role < least {
			_ = huma.WriteErr(api, ctx, http.StatusForbidden, lacks(least))
		} else {
			next(ctx)
		}
		s.requests.WithLabelValues(op.OperationID, strconv.Itoa(ctx.Status())).Inc()
		s.audit(ctx)
	})
	s.registerRooms(api)
	s.registerUsers(api)
	s.registerAllocations(api)
	s.registerNodes(api)
	s.registerDocument(api, mux)
}

// config describes the API as a whole.
func config(version string) huma.Config {
	c := huma.DefaultConfig("signal admin API", version)
	c.Info.Description = "What the owner of the deployment sees and commands. Any node answers for all of them."
	c.OpenAPIPath, c.DocsPath, c.SchemasPath, c.CreateHooks = "", "", "", nil
	c.Formats = map[string]huma.Format{"application/json": {Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}}
	c.Formats["json"] = c.Formats["application/json"]
	c.NoFormatFallback, c.RejectUnknownQueryParameters = false, true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"token": {Type: "http", Scheme: "bearer",
		Description: "A token of --admin-token (role write), --admin-read-token (read) or --admin-metrics-token (metrics)."}}
	return c
}

// unmarshal reads a body as strictly as all that comes from the network: UTF-8, and no name twice.
func unmarshal(data []byte, v any) error { return jsonv2.Unmarshal(data, v) }

// operation describes one operation of a tag. Its id is the method's verb and what it is about.
func operation(method, path, id, tag, summary string, errors ...int) huma.Operation {
	least := roleRead
	if method != http.MethodGet {
		least = roleWrite
	}
	return huma.Operation{Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{tag}, MaxBodyBytes: maxBody,
		Security: []map[string][]string{{"token": {least.String()}}}, Metadata: map[string]any{"role": least},
		Errors: append([]int{http.StatusUnauthorized, http.StatusForbidden}, errors...)}
}

func roleOf(op *huma.Operation) role { return op.Metadata["role"].(role) }

// audit leaves one line of each request that may have changed something, or was to.
func (s *Server) audit(ctx huma.Context) {
	if ctx.Method() == http.MethodGet {
		return
	}
	u := ctx.URL()
	s.parts.Log.Info("admin", "action", ctx.Operation().OperationID, "path", u.Path, "by", callerOf(ctx.Context()).name,
		"from", ctx.RemoteAddr(), "status", ctx.Status())
}

// registerDocument serves the OpenAPI document, as it is when all operations are registered.
func (s *Server) registerDocument(api huma.API, mux *http.ServeMux) {
	text, err := api.OpenAPI().MarshalJSON()
	if err != nil {
		panic(err) // It is made of texts that are in the program.
	}
	mux.Handle("GET /v1/openapi.json", need(roleRead, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(text)
	})))
}

// response is what an operation answers.
type response[T any] struct{ Body T }

func answer[T any](v T) *response[T] { return &response[T]{v} }
