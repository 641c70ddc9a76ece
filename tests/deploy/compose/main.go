// Renders compose files as `docker compose config` does, with the reference implementation of the specification, and
// prints the model as JSON: compose [-profile NAME]... [-env-file FILE] FILE...
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

func render(files, profiles, envFiles []string) ([]byte, error) {
	options, err := cli.NewProjectOptions(
		files,
		cli.WithWorkingDirectory(filepath.Dir(files[0])),
		// No cli.WithOsEnv: the variables of whoever runs the tests are not those of the project.
		cli.WithEnvFiles(envFiles...),
		cli.WithDotEnv,
		cli.WithProfiles(profiles),
	)
	if err != nil {
		return nil, err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return nil, err
	}
	return project.MarshalJSON()
}

func main() {
	var profiles, envFiles list
	flag.Var(&profiles, "profile", "a profile that is on; repeatable")
	flag.Var(&envFiles, "env-file", "a file of variables; repeatable")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if len(envFiles) == 0 {
		envFiles = list{os.DevNull}
	}
	text, err := render(flag.Args(), profiles, envFiles)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(text))
}
