// Package infra holds what ships and runs Varve, and the test that holds the tree to its layout.
package infra
