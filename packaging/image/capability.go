package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// executable is the file of the image that may bind ports below 1024.
const executable = "signal"

// capability is what setcap(8) writes for cap_net_bind_service=p, a version 2 attribute of capabilities(7): who runs the file
// is permitted to bind ports below 1024, and the program takes that up itself. With the effective flag in it the kernel would not
// start the program at all where the capability is dropped.
const capability = "\x00\x00\x00\x02" + "\x00\x04\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x00"

// permitted is an image whose executable has the capability. Builders that run without root cannot set it.
type permitted struct{ v1.Image }

// Layers returns those of the image.
func (p permitted) Layers() ([]v1.Layer, error) {
	layers, err := p.Image.Layers()
	for i := range layers {
		layers[i] = permittedLayer{layers[i]}
	}
	return layers, err
}

type permittedLayer struct{ v1.Layer }

// Uncompressed returns the files of the layer.
func (l permittedLayer) Uncompressed() (io.ReadCloser, error) {
	in, err := l.Layer.Uncompressed()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = permit(&out, in)
	return io.NopCloser(&out), errors.Join(err, in.Close())
}

// permit copies an archive and gives the executable in it, if there is one, the capability.
func permit(w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if header.Name == executable && header.Typeflag == tar.TypeReg {
			header.Format, header.PAXRecords = tar.FormatPAX, map[string]string{"SCHILY.xattr.security.capability": capability}
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}
