package flags

// A set is a set of texts.
type set struct {
	few  []string
	many map[string]struct{}
}

// fewTexts is up to how many texts a scan is not slower than a map.
const fewTexts = 6

func setOf(list []string) set {
	if len(list) <= fewTexts {
		return set{few: list}
	}
	many := make(map[string]struct{}, len(list))
	for _, s := range list {
		many[s] = struct{}{}
	}
	return set{many: many}
}

func (s *set) has(text string) bool {
	if s.many != nil {
		_, ok := s.many[text]
		return ok
	}
	for i := range s.few {
		if s.few[i] == text {
			return true
		}
	}
	return false
}
