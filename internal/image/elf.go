package image

import (
	"debug/elf"
	"io"

	"vortex"
)

// machines maps what an executable says it runs on to the names images use.
var machines = map[elf.Machine]string{
	elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_386: "386", elf.EM_ARM: "arm", elf.EM_RISCV: "riscv64",
	elf.EM_S390: "s390x", elf.EM_PPC64: "ppc64le", elf.EM_LOONGARCH: "loong64",
}

// staticArch returns the architecture of a Linux executable that runs with nothing around it. Anything else is Invalid.
func staticArch(name string, r io.ReaderAt) (string, error) {
	magic := make([]byte, 2)
	if n, _ := r.ReadAt(magic, 0); n == 2 && string(magic) == "#!" { // a short file is no executable
		return "", vortex.Errorf(vortex.Invalid, "%s is a script, and the image would not have its interpreter: write a Dockerfile", name)
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return "", vortex.Errorf(vortex.Invalid, "%s is not a Linux executable: build for linux, for example with GOOS=linux, or write a Dockerfile", name)
	}
	defer f.Close()
	for _, segment := range f.Progs {
		if segment.Type == elf.PT_INTERP {
			return "", vortex.Errorf(vortex.Invalid,
				"%s needs shared libraries that the image would not have: link it statically (Go: CGO_ENABLED=0; C: -static; Rust: a musl target), or write a Dockerfile", name)
		}
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN || f.Entry == 0 {
		return "", vortex.Errorf(vortex.Invalid, "%s is a library or an object file, not an executable", name)
	}
	arch, ok := machines[f.Machine]
	if !ok {
		return "", vortex.Errorf(vortex.Invalid, "%s is for %s, which Vortex does not know", name, f.Machine)
	}
	return arch, nil
}
