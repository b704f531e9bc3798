package flotilla

// Route is one route of the router, by its pattern.
type Route struct{ Method, Pattern string }

// Routes lists the routes of the router.
func Routes() []Route {
	var list []Route
	new(endpoints).routes(func(versions, method, path string, _ handler) {
		for _, prefix := range prefixes(versions) {
			list = append(list, Route{method, prefix + path})
		}
	})
	return list
}
