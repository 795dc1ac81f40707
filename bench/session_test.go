package bench

import "testing"

// open returns a session of p with n flags.
func open(tb testing.TB, p Peer, n int, events bool) Session {
	tb.Helper()
	s, err := p.Open(p.Document(Flags(n)), events)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// TestPeersAgree checks that all peers do the work that is measured.
func TestPeersAgree(t *testing.T) {
	for _, p := range Peers() {
		for _, events := range []bool{false, true} {
			if events && p.NoEvents {
				continue
			}
			t.Run(p.Name+map[bool]string{true: "/events"}[events], func(t *testing.T) {
				const n = 1000
				s := open(t, p, n, events)
				for _, c := range Cases {
					if lacks(p, c) {
						continue
					}
					if c == Rollout {
						half(t, s)
						continue
					}
					key := Question(c)
					if want := !(c == Missing && p.NoDefault); s.Bool(key, c == Missing) != want {
						t.Errorf("%s: not %v", key, want)
					}
				}
				if got := s.All(); got < n*(len(kinds)-len(p.Lacks))/len(kinds)-len(kinds) {
					t.Errorf("all flags: %d of %d", got, n)
				}
			})
		}
	}
}

// half checks that about half of the rollouts serve true.
func half(t *testing.T, s Session) {
	t.Helper()
	yes := 0
	const of = 160
	for i := range of {
		if s.Bool(FlagKey(Rollout, i), false) {
			yes++
		}
	}
	if yes < of/4 || yes > of*3/4 {
		t.Errorf("%d of %d rollouts serve true, want about half", yes, of)
	}
}

// TestPeersRefuse checks that the conditions are looked at: flags must not serve
// true to a user that they do not fit.
func TestPeersRefuse(t *testing.T) {
	was := TheUser
	t.Cleanup(func() { TheUser = was })
	TheUser.Key, TheUser.Country, TheUser.Email = "stranger", "de", "ann@example.net"
	for _, p := range Peers() {
		t.Run(p.Name, func(t *testing.T) {
			s := open(t, p, 600, false)
			for _, c := range []Case{Targets, Rule, Segment, Regex} {
				if !lacks(p, c) && s.Bool(Question(c), true) {
					t.Errorf("%s: true, want false", c)
				}
			}
		})
	}
}
