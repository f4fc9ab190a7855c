# Finishes a system whose packages are only unpacked: their preinst scripts, then
# dpkg's own configuration. Runs as root in a bootstrap sandbox.
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C.UTF-8 HOME=/root TMPDIR=/run

# There is no init here that could start or stop services.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d

# Compiling the whole standard library takes minutes under emulation, and Python
# compiles what it uses by itself.
compiler=$(echo /usr/lib/python3.*/py_compile.py)
mv "$compiler" "$compiler.kept"
: >"$compiler"
mv /usr/bin/py3compile /usr/bin/py3compile.kept
ln -s true /usr/bin/py3compile

# The certificates' own script starts five programs for each of them, twice; what
# it does is done below by one.
mv /usr/sbin/update-ca-certificates /usr/sbin/update-ca-certificates.kept
ln -s ../bin/true /usr/sbin/update-ca-certificates

preinst() {
	package=$(basename "$1" .preinst)
	DPKG_MAINTSCRIPT_PACKAGE=${package%%:*} DPKG_MAINTSCRIPT_NAME=preinst \
		DPKG_MAINTSCRIPT_ARCH=$arch DPKG_ROOT='' DPKG_ADMINDIR=/var/lib/dpkg \
		DPKG_RUNNING_VERSION=$version DPKG_FORCE='' "$1" install
}
arch=$(dpkg --print-architecture)
version=$(dpkg-query --showformat '${Version}' --show dpkg)
info=/var/lib/dpkg/info
# The guest agent has made do with a user of its own until now.
rm -rf /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/sudoers.d/90-smolvm-agent /home/agent /workspace
preinst $info/base-passwd.preinst # makes the users that others need
for script in "$info"/*.preinst; do
	test "$script" = $info/base-passwd.preinst || preinst "$script"
done

dpkg --force-unsafe-io --configure -a
mv /usr/sbin/update-ca-certificates.kept /usr/sbin/update-ca-certificates
cd /etc/ssl/certs
perl -e '
	while (<>) {
		chomp;
		next if $_ eq "" or /^[#!]/;
		my $path = "/usr/share/ca-certificates/$_";
		my ($link) = m{([^/]+)\.crt$} or die "$_ is no certificate\n";
		$link =~ tr/ (),/_==_/;
		symlink($path, "$link.pem") or die "$link.pem: $!\n";
		open(my $in, "<", $path) or die "$path: $!\n";
		my $text = join("", <$in>);
		print $text, $text =~ /\n\z/ ? "" : "\n";
	}' /etc/ca-certificates.conf >ca-certificates.crt
openssl rehash .

mv "$compiler.kept" "$compiler"
mv /usr/bin/py3compile.kept /usr/bin/py3compile
rm /usr/sbin/policy-rc.d

broken=$(dpkg --audit)
test -z "$broken" || {
	echo "$broken" >&2
	exit 1
}
