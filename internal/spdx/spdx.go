// Package spdx is the form of a software bill of materials, SPDX 2.3 in JSON
// (https://spdx.github.io/spdx-spec/v2.3/), as far as SmolVM writes it: that of an
// image and that of the program. Who writes one fills a Document in and encodes it.
// Nothing is kept.
package spdx

// Words of the specification.
const (
	Version     = "SPDX-2.3"
	DataLicense = "CC0-1.0"          // of every document, clause 6.2
	DocumentID  = "SPDXRef-DOCUMENT" // of every document itself, clause 6.3
	Unknown     = "NOASSERTION"
)

// Document is a bill of materials.
type Document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      Creation       `json:"creationInfo"`
	Packages      []Package      `json:"packages"`
	Licenses      []License      `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships []Relationship `json:"relationships"`
}

// License is one that SPDX's list does not have.
type License struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
}

// Creation says when and with what a document was made.
type Creation struct {
	Created  string   `json:"created"` // RFC 3339, UTC
	Creators []string `json:"creators"`
}

// Package is one piece of software.
type Package struct {
	ID          string      `json:"SPDXID"`
	Name        string      `json:"name"`
	Version     string      `json:"versionInfo,omitempty"`
	FileName    string      `json:"packageFileName,omitempty"`
	Location    string      `json:"downloadLocation"`
	Analyzed    bool        `json:"filesAnalyzed"`
	Checksums   []Checksum  `json:"checksums,omitempty"`
	Source      string      `json:"sourceInfo,omitempty"`
	Concluded   string      `json:"licenseConcluded"`
	Declared    string      `json:"licenseDeclared"`
	LicenseText string      `json:"licenseComments,omitempty"`
	Copyright   string      `json:"copyrightText"`
	Purpose     string      `json:"primaryPackagePurpose,omitempty"`
	References  []Reference `json:"externalRefs,omitempty"`
}

// Checksum is the digest of a package's file, in hexadecimal.
type Checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

// Reference is where a database knows a package.
type Reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// Relationship is between two SPDX ids.
type Relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// PackageURL is the reference of a package that has a package URL.
func PackageURL(purl string) []Reference { return []Reference{{"PACKAGE-MANAGER", "purl", purl}} }

// Digest is the checksum list of one SHA-256 in hexadecimal.
func Digest(sha256 string) []Checksum { return []Checksum{{"SHA256", sha256}} }
