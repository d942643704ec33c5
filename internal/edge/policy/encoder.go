package policy

import (
	"io"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Coding is a content coding; 0 is none.
type Coding uint8

// The codings the edge can make.
const (
	Gzip Coding = 1 + iota
	Brotli
	Zstd
)

// names are what the codings are called in HTTP.
var names = [...]string{Gzip: "gzip", Brotli: "br", Zstd: "zstd"}

// String returns the coding's name in HTTP, "" for none.
func (c Coding) String() string { return names[c] }

func codingOf(name string) Coding {
	for coding := Gzip; int(coding) < len(names); coding++ {
		if names[coding] == name {
			return coding
		}
	}
	return 0
}

// Encoder compresses what is written to it.
type Encoder interface {
	io.WriteCloser
	Flush() error      // passes on what was written so far
	Reset(w io.Writer) // begins anew
}

// brotliLevel is where brotli is as fast as gzip and smaller.
const brotliLevel = 4

// zstdWindow is what decoders must remember. Browsers take up to 8 MiB; a small one keeps encoders small.
const zstdWindow = 256 << 10

// encoders are kept, because making one costs more than compressing a page.
var encoders = [...]sync.Pool{
	Gzip:   {New: func() any { return gzip.NewWriter(nil) }},
	Brotli: {New: func() any { return brotli.NewWriterLevel(nil, brotliLevel) }},
	Zstd: {New: func() any {
		w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zstdWindow))
		if err != nil {
			panic("zstd refuses the options: " + err.Error())
		}
		return w
	}},
}

// NewEncoder returns an encoder that writes to w. Free it when the body has ended.
func (c Coding) NewEncoder(w io.Writer) Encoder {
	e, ok := encoders[c].Get().(Encoder)
	if !ok {
		panic("a pool of encoders holds something else")
	}
	e.Reset(w)
	return e
}

// FreeEncoder takes an encoder back, whether or not its body ended well.
func (c Coding) FreeEncoder(e Encoder) {
	e.Reset(nil)
	encoders[c].Put(e)
}
