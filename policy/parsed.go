package policy

import "io/fs"

// Parse reads a policy folder as [Load] does, and returns the files as they were
// written, by path, whether or not what they say makes sense: for tools that say
// more of a policy than that it cannot be loaded. Files that are no mapping are
// left out, and what could not be read of a file is missing in it: only Load
// says so.
func Parse(fsys fs.FS) []*File { return read(fsys).Parsed() }

// Parsed is [Parse] for a folder that was read already.
func (f *Folder) Parsed() []*File {
	c := &checker{sources: f.files}
	c.parse()
	return c.files
}
