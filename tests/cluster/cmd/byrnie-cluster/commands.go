package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"byrnie.dev/cluster/internal/cluster"
	"byrnie.dev/cluster/internal/layout"
	"byrnie.dev/cluster/internal/node"
	"byrnie.dev/cluster/internal/oci"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// place says which cluster is meant.
type place struct{ name, base string }

func (p *place) describe() (layout.Cluster, error) { return layout.New(p.name, p.base) }

// load reads the description of a cluster that `up` has made.
func (p *place) load() (layout.Cluster, error) {
	c, err := p.describe()
	if err != nil {
		return c, err
	}
	return layout.Load(c.Dir)
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "byrnie-cluster",
		Short: "A real Kubernetes in network namespaces, for tests",
		Long: "A real Kubernetes in network namespaces, for tests.\n\nThe programs of the cluster are in this binary, too: byrnie-cluster " +
			strings.Join([]string{"kubectl", "helm", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"}, ", ") + ".",
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	// Kubernetes has put flags of its own where cobra looks for everybody's
	pflag.CommandLine = pflag.NewFlagSet("", pflag.ContinueOnError)
	p := &place{}
	root.PersistentFlags().StringVar(&p.name, "name", "byrnie", "the cluster's name")
	root.PersistentFlags().StringVar(&p.base, "dir", "", "where clusters keep their files (default "+layout.DefaultBase()+")")
	root.AddCommand(upCommand(p), downCommand(p), statusCommand(p), loadCommand(p), kubeconfigCommand(p), execCommand(p), signalCommand(p), snapshotCommand(p), restoreCommand(p), imageCommand(), nodeCommand())
	return root
}

func upCommand(p *place) *cobra.Command {
	var nodes int
	cmd := &cobra.Command{
		Use: "up", Short: "Start a cluster, or see that it is running", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.describe()
			if err != nil {
				return err
			}
			c.Nodes = nodes
			return cluster.Up(cmd.Context(), c)
		},
	}
	cmd.Flags().IntVar(&nodes, "nodes", 1, "how many nodes")
	return cmd
}

func downCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "down", Short: "Remove a cluster and everything that it made", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := p.describe()
			if err != nil {
				return err
			}
			existed, err := cluster.Down(c)
			if err == nil && !existed {
				fmt.Printf("there is no cluster %s\n", c.Name)
			}
			return err
		},
	}
}

func statusCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what runs; fails if the cluster is not healthy", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return cluster.Status(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
}

func loadCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "load IMAGE.tar...", Short: "Load image archives on all nodes", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, archives []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			begin := time.Now()
			if err := cluster.Load(cmd.Context(), c, archives); err != nil {
				return err
			}
			fmt.Printf("loaded %d images on %d nodes in %.1f s\n", len(archives), c.Nodes, time.Since(begin).Seconds())
			return nil
		},
	}
}

func kubeconfigCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "kubeconfig", Short: "Print the path of the administrator's kubeconfig", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := p.load()
			if err == nil {
				fmt.Println(c.Kubeconfig())
			}
			return err
		},
	}
}

func execCommand(p *place) *cobra.Command {
	var index int
	cmd := &cobra.Command{
		Use: "exec [--node I] -- COMMAND...", Short: "Run a command in a node's network, with KUBECONFIG set", Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, command []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return cluster.Exec(c, index, command)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().IntVar(&index, "node", 1, "which node")
	return cmd
}

func signalCommand(p *place) *cobra.Command {
	var index int
	cmd := &cobra.Command{
		Use: "signal [--node I] COMPONENT SIGNAL", Short: "Kill, stop or continue a component, such as kube-apiserver", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return cluster.Signal(c, index, args[0], args[1])
		},
	}
	cmd.Flags().IntVar(&index, "node", 1, "which node")
	return cmd
}

func snapshotCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "snapshot FILE", Short: "Write what etcd has into a file", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			return cluster.Exec(c, 1, []string{self, snapshotComponent, args[0]})
		},
	}
}

func restoreCommand(p *place) *cobra.Command {
	return &cobra.Command{
		Use: "restore FILE", Short: "Put etcd back to a snapshot, while everything runs", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := p.load()
			if err != nil {
				return err
			}
			return cluster.Restore(c, args[0])
		},
	}
}

func imageCommand() *cobra.Command {
	image := &cobra.Command{Use: "image", Short: "Build and push images", Args: cobra.NoArgs}
	var out string
	var wanted oci.Image
	var programs []string
	build := &cobra.Command{
		Use: "build --ref NAME --out FILE FILE:PLACE...", Short: "Build an image from static programs, always with the same bytes", Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, files []string) error {
			for _, file := range files {
				source, destination, ok := strings.Cut(file, ":")
				if !ok {
					return fmt.Errorf("%s: write FILE:PLACE, for example ./app:/app", file)
				}
				wanted.Files = append(wanted.Files, oci.File{Source: source, Destination: destination})
			}
			for _, program := range programs {
				closure, err := oci.WithLibraries(program)
				if err != nil {
					return err
				}
				wanted.Files = append(wanted.Files, closure...)
			}
			if len(wanted.Files) == 0 {
				return errors.New("an image needs at least one file")
			}
			return wanted.WriteFile(out)
		},
	}
	flags := build.Flags()
	flags.StringVar(&wanted.Reference, "ref", "", "the image's name and tag")
	flags.StringVar(&out, "out", "", "the archive to write")
	flags.StringSliceVar(&wanted.Entrypoint, "entrypoint", nil, "program and arguments, separated by commas")
	flags.StringVar(&wanted.User, "user", "", "user id that the program runs as (default root)")
	flags.StringArrayVar(&programs, "with-libs", nil, "add a program of this machine at its own path, with the libraries that it needs")
	for _, required := range []string{"ref", "out", "entrypoint"} {
		if err := build.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is defined above
		}
	}
	image.AddCommand(build, &cobra.Command{
		Use: "push ARCHIVE REFERENCE", Short: "Push an image archive to a registry, with the credentials of docker's configuration", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return oci.Push(cmd.Context(), args[0], args[1], remote.WithAuthFromKeychain(authn.DefaultKeychain))
		},
	})
	return image
}

// nodeCommand is what `up` starts in new namespaces.
func nodeCommand() *cobra.Command {
	var index int
	cmd := &cobra.Command{
		Use: "node", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cmd.Flags().GetString("dir")
			if err != nil {
				return err
			}
			return node.Run(dir, index)
		},
	}
	cmd.Flags().IntVar(&index, "index", 0, "which node")
	return cmd
}
