package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
)

// A list is asked for page by page. Each node answers with the first of its own items that come after the page before, and the page is the
// first of all these: no further than a node has told that has more.

// Page is the part of a list that is asked for.
type Page struct {
	After string `query:"after" maxLength:"512" doc:"The next of the page before; empty for the first page."`
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"100" doc:"How many items a page has at most."`
}

// list is a page of items.
type list[T any] struct {
	Items        []T      `json:"items" nullable:"false" doc:"In the order of their names."`
	Next         string   `json:"next,omitempty" doc:"What to ask for as after to have the next page; absent on the last."`
	MissingNodes []string `json:"missing_nodes" nullable:"false" doc:"Nodes that did not answer in time; what they know is not here."`
}

// item is what lists are made of.
type item interface {
	name() string
	// age is less for what is newer, of what several nodes know.
	age() int64
}

// listAsked asks a node for items after a name: those of a name, a user or a room, of which what is empty is any.
type listAsked struct {
	Name  string `json:"name,omitempty"`
	User  string `json:"user,omitempty"`
	Room  string `json:"room,omitempty"`
	After string `json:"after,omitempty"`
	Limit int    `json:"limit"`
}

// listTold is what a node answers, in the order of names. More says that there are more.
type listTold[T item] struct {
	Items []T  `json:"items"`
	More  bool `json:"more,omitempty"`
}

// maxAnswer is about how many bytes a node answers at most, and one item at least.
const maxAnswer = 256 << 10

// pick returns the first of the things after a name that are wanted, as items. The things are in the order of their names.
func pick[S any, T item](q listAsked, all []S, name func(S) string, wanted func(S) bool, describe func(S) T) (told listTold[T]) {
	from, _ := slices.BinarySearchFunc(all, q.After, func(thing S, after string) int {
		if name(thing) <= after {
			return -1
		}
		return 1
	})
	size := 0
	for _, thing := range all[from:] {
		if !wanted(thing) {
			continue
		}
		if told.More = len(told.Items) == q.Limit || size > maxAnswer; told.More {
			break
		}
		told.Items = append(told.Items, describe(thing))
		text, _ := json.Marshal(told.Items[len(told.Items)-1]) // Plain fields always encode.
		size += len(text)
	}
	return told
}

// ask returns the page that all nodes together know.
func ask[T item](ctx context.Context, s *Server, about topic[listAsked, listTold[T]], q listAsked) list[T] {
	return page(q, about.askAll(ctx, s, q))
}

// page puts together what the nodes have told. Of what several know the newest is right.
func page[T item](q listAsked, all answers[listTold[T]]) list[T] {
	l := list[T]{Items: []T{}, MissingNodes: all.missing}
	last, more := "", false // how far all nodes have told
	all.each(func(_ string, told listTold[T]) {
		l.Items = append(l.Items, told.Items...)
		if end := told.Items; told.More && (!more || end[len(end)-1].name() < last) {
			last, more = end[len(end)-1].name(), true
		}
	})
	slices.SortFunc(l.Items, func(a, b T) int { return cmp.Or(cmp.Compare(a.name(), b.name()), cmp.Compare(a.age(), b.age())) })
	l.Items = slices.CompactFunc(l.Items, func(a, b T) bool { return a.name() == b.name() })
	if more {
		l.Items = slices.DeleteFunc(l.Items, func(i T) bool { return i.name() > last })
	}
	if len(l.Items) > q.Limit {
		l.Items, more = l.Items[:q.Limit], true
	}
	if n := len(l.Items); more && n > 0 {
		l.Next = l.Items[n-1].name()
	}
	return l
}

// find returns the one item that is asked for, or an error that says what is not there.
func find[T item](ctx context.Context, s *Server, about topic[listAsked, listTold[T]], name, absence string) (one T, err error) {
	l := ask(ctx, s, about, listAsked{Name: name, Limit: 1})
	if len(l.Items) == 0 {
		return one, absent(absence, l.MissingNodes)
	}
	return l.Items[0], nil
}
