# Removes what no layer may hold: caches, logs, histories, identities. Runs as
# root at the end of every build. Only what is there is removed, so that a layer
# gets no whiteouts for what the layers below do not have.
remove() {
	for path; do
		if [ -e "$path" ] || [ -L "$path" ]; then rm -rf -- "$path"; fi
	done
}
remove /tmp/* /tmp/.[!.]* /var/tmp/* /var/tmp/.[!.]*
remove /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache
remove /var/lib/dpkg/*-old /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid-
remove /etc/machine-id /var/lib/dbus/machine-id /etc/ssh/ssh_host_* /var/lib/systemd/random-seed
remove /root/.npm /root/.cache /root/.bash_history /root/.wget-hsts /root/.node_repl_history
remove /home/agent/.npm /home/agent/.cache /home/agent/.bash_history /home/agent/.node_repl_history
remove /usr/local/share/.cache /var/log/apt /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
find /var/log -type f -exec rm -f {} +
