// Command image makes a container image the same for the same content: it reads an image as `docker
// save` writes it and writes one that `docker load` takes, without the times, host and container
// that the builder left in it. Classic builders offer nothing for that.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	epoch := flag.Int64("epoch", 0, "`SECONDS` since 1970 that all times become, such as the commit's")
	platform := flag.String("platform", "linux/amd64", "`PLATFORM` of the executable in it")
	tag := flag.String("tag", "", "`NAME:TAG` of the image")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, os.Stderr, time.Unix(*epoch, 0).UTC(), *platform, *tag); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run reads an archive with one image, writes the canonical one and says its digest and sizes.
func run(in io.Reader, out, said io.Writer, when time.Time, platform, tag string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return fmt.Errorf("-tag: %w", err)
	}
	to, err := v1.ParsePlatform(platform)
	if err != nil {
		return fmt.Errorf("-platform: %w", err)
	}
	archive, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive)), nil }, nil)
	if err != nil {
		return fmt.Errorf("reading the image: %w", err)
	}
	if img, err = canonical(img, when, *to); err != nil {
		return fmt.Errorf("changing the image: %w", err)
	}
	if err := tarball.Write(ref, img, out); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return describe(said, ref, img)
}

func canonical(img v1.Image, when time.Time, platform v1.Platform) (v1.Image, error) {
	img, err := mutate.Canonical(permitted{img}) // It asks for the layers and writes them anew.
	if err != nil {
		return nil, err
	}
	if img, err = mutate.Time(img, when); err != nil {
		return nil, err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Variant = platform.OS, platform.Architecture, platform.Variant
	cfg.Config.Image = "" // The builder's image before this one.
	return mutate.ConfigFile(img, cfg)
}

func describe(w io.Writer, ref name.Tag, img v1.Image) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	var size int64
	var problems []error
	for _, l := range layers {
		n, err := l.Size()
		size += n
		problems = append(problems, err)
	}
	fmt.Fprintf(w, "%s %s, %.1f MB to pull\n", ref, digest, float64(size)/1e6)
	return errors.Join(problems...)
}
