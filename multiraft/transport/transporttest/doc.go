// Package transporttest holds what every transport must do, as tests. A transport's own test calls Run with a way to
// make networks.
package transporttest
