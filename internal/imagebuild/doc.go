// Package imagebuild makes images from recipes: the base layer and the kernel
// from a distribution's packages, a preset's layer by running its recipe in a
// sandbox, and the signed folder they are published in.
//
// Inputs are the recipes as values, the guest agent, and the package archives
// that mmdebstrap and pip are set up for. None of what is downloaded runs on the
// host: packages are unpacked here and configured inside a sandbox.
//
// Every result is kept in a cache folder under the digest of all that it was made
// from. It is built in a work folder and renamed into place whole, so whatever
// interrupts a build leaves nothing that a later run would accept; the next run
// removes the work folder and begins that step again. One build at a time uses a
// cache folder: a second one waits. Published files are named by their content
// and never replaced; the manifest comes last, by one rename.
package imagebuild
