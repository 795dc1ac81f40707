//go:build !unix

package main

// onReconcileSignal does nothing: there is no such signal.
func onReconcileSignal(func()) (stop func()) { return func() {} }
