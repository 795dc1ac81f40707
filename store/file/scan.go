package file

// What is here finds its way in valid JSON, and valid JSON only, to say where in a
// document something is wrong.

// eachMember calls f with the name, without quotes but otherwise as it stands
// there, the value and the value's offset of each member of the object that text
// begins with.
func eachMember(object []byte, f func(name, value []byte, at int)) {
	i := skipSpace(object, 1)
	for object[i] != '}' {
		start := i
		i = skipString(object, i)
		name := object[start+1 : i-1]
		i = skipSpace(object, i)
		start = skipSpace(object, i+1) // behind the colon
		i = skipValue(object, start)
		f(name, object[start:i:i], start)
		i = nextOf(object, i)
	}
}

// eachElement calls f with each element, and its offset, of the list that text
// begins with.
func eachElement(list []byte, f func(value []byte, at int)) {
	i := skipSpace(list, 1)
	for list[i] != ']' {
		start := i
		i = skipValue(list, i)
		f(list[start:i:i], start)
		i = nextOf(list, i)
	}
}

// nextOf returns where the next member or element begins, or the closing bracket
// is, after one that ends at i.
func nextOf(text []byte, i int) int {
	i = skipSpace(text, i)
	if text[i] == ',' {
		i = skipSpace(text, i+1)
	}
	return i
}

func isList(value []byte) bool { return len(value) > 0 && value[0] == '[' }

func skipSpace(text []byte, i int) int {
	for text[i] == ' ' || text[i] == '\n' || text[i] == '\r' || text[i] == '\t' {
		i++
	}
	return i
}

// skipString returns the end of the string that begins at i.
func skipString(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// skipValue returns the end of the value that begins at i.
func skipValue(text []byte, i int) int {
	for depth := 0; i < len(text); {
		switch text[i] {
		case '"':
			i = skipString(text, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what a number or literal stands in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i // the end of a number or literal
			}
		}
		i++
	}
	return i
}
