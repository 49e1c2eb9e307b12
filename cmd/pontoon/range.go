package main

import "github.com/spf13/cobra"

func newRangeCommand() *cobra.Command {
	return &cobra.Command{Use: "range", Short: "Look at the ranges of a cluster"}
}
