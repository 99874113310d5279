package main

import (
	"sync"
	"time"

	pb "sidelane.test/calls/stubs/echo"
)

// ledger is what the server saw of the calls that named a key.
type ledger struct {
	mutex  sync.Mutex
	visits map[string][]*visit
	// Closed and replaced with each change, so that somebody can wait for one.
	changed chan struct{}
}

// visit is one call, as its server saw it.
type visit struct {
	arrived   time.Time
	remaining time.Duration
	limited   bool
	ended     time.Time
	how       pb.Moment
}

func newLedger() *ledger {
	return &ledger{visits: map[string][]*visit{}, changed: make(chan struct{})}
}

func (l *ledger) arrive(key string, remaining time.Duration, limited bool) *visit {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	arrived := &visit{arrived: time.Now(), remaining: remaining, limited: limited}
	l.visits[key] = append(l.visits[key], arrived)
	l.tell()
	return arrived
}

// end notes how a call ended; only the first word counts.
func (l *ledger) end(ended *visit, how pb.Moment) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if ended.how == pb.Moment_MOMENT_UNSPECIFIED {
		ended.ended, ended.how = time.Now(), how
		l.tell()
	}
}

func (l *ledger) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// wait gives the visit that is the count-th to come so far, and when it did.
func (l *ledger) wait(key string, moment pb.Moment, count int, within time.Duration) (visit, time.Time, bool) {
	limit := time.After(within)
	for {
		l.mutex.Lock()
		found := 0
		for _, seen := range l.visits[key] {
			if when, reached := seen.reached(moment); reached {
				if found++; found == count {
					defer l.mutex.Unlock()
					return *seen, when, true
				}
			}
		}
		changed := l.changed
		l.mutex.Unlock()
		select {
		case <-changed:
		case <-limit:
			return visit{}, time.Time{}, false
		}
	}
}

// count says how many calls came so far; an empty key means all calls.
func (l *ledger) count(key string, moment pb.Moment) uint64 {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	var count uint64
	for name, visits := range l.visits {
		if key != "" && key != name {
			continue
		}
		for _, seen := range visits {
			if _, reached := seen.reached(moment); reached {
				count++
			}
		}
	}
	return count
}

func (v *visit) reached(moment pb.Moment) (time.Time, bool) {
	if moment == pb.Moment_MOMENT_ARRIVED {
		return v.arrived, true
	}
	return v.ended, v.how != pb.Moment_MOMENT_UNSPECIFIED && v.how == moment
}

func (v *visit) milliseconds() int64 {
	if !v.limited {
		return -1
	}
	return v.remaining.Milliseconds()
}
