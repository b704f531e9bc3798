package engine

// OnNode is implemented by engines that execute runs on the machine of the
// server they are part of. Every server follows such an engine, because each
// sees its own machine only; a cluster of any other engine is followed by one
// server at a time.
type OnNode interface {
	// Node names this server's machine among those of the cluster; it is the
	// same after a restart.
	Node() string
}
