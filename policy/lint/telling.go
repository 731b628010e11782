package lint

import "slices"

// Telling returns the claims that say what a job is, beyond whose it is: its
// branch, environment, event, workflow and runner, and the ids of whatever else a
// rule should not know by name. Without the ids that the issuer's rules pin. A
// rule that names them all is for jobs of one sort only. The issuer is told by
// its profile, or else by its URL; of one that lint does not know there are none.
func Telling(profile, url string) ([]string, error) {
	known, err := readProviders()
	if err != nil {
		return nil, err
	}
	p := providerOf(known, profile, url)
	var claims []string
	add := func(names ...string) {
		for _, name := range names {
			if name != "" && !slices.Contains(claims, name) && !slices.Contains(p.IDs, name) {
				claims = append(claims, name)
			}
		}
	}
	for _, n := range p.Names {
		add(n.ID)
	}
	for _, r := range p.Refs {
		add(r.Claim)
		if !r.Full {
			add(r.Type)
		}
	}
	add(p.Environment.Claim, p.Events.Claim)
	for _, f := range p.Workflows {
		if !f.Own || len(p.Workflows) == 1 {
			add(f.Claim)
		}
	}
	add(p.Runner)
	return claims, nil
}
