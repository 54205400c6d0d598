package turnsrv

import "errors"

var errNoDataLoop = errors.New("there are no data loops here")
