// Package checks is shared by the programs that call the running service.
package checks

import (
	"fmt"
	"os"
)

// Variable returns an environment variable, and ends the program if it is not set.
func Variable(name string) string {
	value := os.Getenv(name)
	if value == "" {
		fmt.Fprintf(os.Stderr, "%s is not set\n", name)
		os.Exit(1)
	}
	return value
}

// Check is one named check of a client.
type Check struct {
	Name string
	Run  func() error
}

// Run runs the checks of a client and prints how many there were. The first failed check ends the program.
func Run(client string, checks []Check) {
	for _, check := range checks {
		if err := check.Run(); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s: %v\n", client, check.Name, err)
			os.Exit(1)
		}
	}
	fmt.Printf("%s: %d checks passed\n", client, len(checks))
}

// Equal returns an error if the two differ.
func Equal[T comparable](got, want T) error {
	if got != want {
		return fmt.Errorf("%v, not %v", got, want)
	}
	return nil
}
