package turnsrv

import (
	"errors"
	"runtime"
	"sync"
)

var errNoDataLoop = errors.New("there are no data loops here")

// cores is how many threads the process was meant to use when it began.
var cores = sync.OnceValue(func() int { return runtime.GOMAXPROCS(0) })
