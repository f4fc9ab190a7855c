# Finishes a system whose packages are only unpacked: their preinst scripts, then
# dpkg's own configuration. Runs as root in a bootstrap sandbox. Starting a program
# costs tens of milliseconds under emulation, so what packages do in long loops is
# done here in another way, with the same result.
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C.UTF-8 HOME=/root TMPDIR=/run
info=/var/lib/dpkg/info
kept=/run/smolvm-build/kept

# aside FILE: puts a program that does nothing in its place until put_back.
aside() {
	install -d "$kept${1%/*}"
	mv "$1" "$kept$1"
	printf '#!/bin/sh\nexit 0\n' >"$1"
	chmod 755 "$1"
}
put_back() {
	(cd "$kept" && find . -type f) | while read -r file; do mv "$kept/$file" "/$file"; done
}

# There is no init here that could start or stop services, nor units to enable.
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
aside /usr/bin/deb-systemd-helper
aside /usr/bin/deb-systemd-invoke
# Compiling the whole standard library takes minutes, and Python compiles what it
# uses by itself. An empty compiler of byte code is a program that does nothing.
compiler=$(echo /usr/lib/python3.*/py_compile.py)
aside "$compiler"
: >"$compiler"
aside /usr/bin/py3compile
# These scripts go through the certificates several times, a few programs for each.
aside /usr/sbin/update-ca-certificates
aside $info/ca-certificates.config
aside $info/ca-certificates.postinst

preinst() {
	package=$(basename "$1" .preinst)
	DPKG_MAINTSCRIPT_PACKAGE=${package%%:*} DPKG_MAINTSCRIPT_NAME=preinst \
		DPKG_MAINTSCRIPT_ARCH=$arch DPKG_ROOT='' DPKG_ADMINDIR=/var/lib/dpkg \
		DPKG_RUNNING_VERSION=$version DPKG_FORCE='' "$1" install
}
arch=$(dpkg --print-architecture)
version=$(dpkg-query --showformat '${Version}' --show dpkg)
# The guest agent has made do with a user of its own until now.
rm -rf /etc/passwd /etc/group /etc/shadow /etc/gshadow /etc/sudoers.d/90-smolvm-agent /home/agent /workspace
preinst $info/base-passwd.preinst # makes the users that others need
for script in "$info"/*.preinst; do
	test "$script" = $info/base-passwd.preinst || preinst "$script"
done

dpkg --force-unsafe-io --configure -a
put_back
rm /usr/sbin/policy-rc.d

# All certificates of the package are trusted, as its postinst does without a question.
install -d /usr/local/share/ca-certificates
{
	sed -n '/^# This file lists/,/^EOF$/ { /^EOF$/d; p; }' $info/ca-certificates.postinst
	cd /usr/share/ca-certificates
	find . -name '*.crt' -printf '%P\n' | sort
} >/etc/ca-certificates.conf
cd /etc/ssl/certs
perl -e '
	while (<>) {
		chomp;
		next if /^#/;
		my $path = "/usr/share/ca-certificates/$_";
		my ($link) = m{([^/]+)\.crt$} or die "$_ is no certificate\n";
		$link =~ tr/ (),/_==_/;
		symlink($path, "$link.pem") or die "$link.pem: $!\n";
		open(my $in, "<", $path) or die "$path: $!\n";
		my $text = join("", <$in>);
		print $text, $text =~ /\n\z/ ? "" : "\n";
	}' /etc/ca-certificates.conf >ca-certificates.crt
openssl rehash .

broken=$(dpkg --audit)
test -z "$broken" || {
	echo "$broken" >&2
	exit 1
}
