package port

import "slices"

// Displaced is a forward that has another port of this computer than the one that it
// prefers, because that was taken when it began to listen.
type Displaced struct {
	Forward
	Preferred int `json:"preferred"` // port of this computer
}

// Wanted is f with the port that it prefers.
func Wanted(all []Displaced, f Forward) Forward {
	for _, d := range all {
		if d.Same(f) {
			f.Host = d.Preferred
		}
	}
	return f
}

// Standing finds the forward that stands in for one that was asked for, in another
// port's place.
func Standing(all []Displaced, wanted Forward) (Forward, bool) {
	for _, d := range all {
		if Wanted(all, d.Forward).Same(wanted) {
			return d.Forward, true
		}
	}
	return Forward{}, false
}

// Displace notes what became of a forward, and forgets what is no forward any more.
func Displace(all []Displaced, forwards []Forward, wanted, got Forward) []Displaced {
	all = slices.DeleteFunc(slices.Clone(all), func(d Displaced) bool {
		return d.Same(got) || !slices.ContainsFunc(forwards, d.Same)
	})
	if wanted.Host != 0 && wanted.Host != got.Host {
		all = append(all, Displaced{got, wanted.Host})
	}
	return all
}

// Valid refuses ports that there are not.
func (d Displaced) Valid() bool {
	return d.Forward.Valid() && d.Preferred >= 1 && d.Preferred <= maxPort
}
