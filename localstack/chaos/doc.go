// Package chaos holds the real program to its promises while its process is killed, fenced, starved and fed wrong input;
// package kcheck judges what its clients have seen.
package chaos
