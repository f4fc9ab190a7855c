# Runs in a guest as root. Sends, asks for and opens as much as it can for a while, and
# closes nothing: argv has the address of a web server and how many seconds.
import itertools, os, resource, socket, sys, threading, time

to, until = sys.argv[1], time.monotonic() + float(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000))
kept = []


def flood(step):
    for i in itertools.count():
        if time.monotonic() > until:
            return
        try:
            step(i)
        except OSError:
            pass


def open_one(_):
    if len(kept) < 4000:
        kept.append(socket.create_connection((to, 80), 1))


large = bytes(60000)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
ask = b"\x12\x67\x01\0\0\x01\0\0\0\0\0\0\x08%08x\x04good\x07example\0\0\x01\0\x01"
steps = [
    open_one,
    lambda i: udp.sendto(large, (to, 1024 + i % 60000)),
    lambda i: dns.sendto(ask % i, ("10.0.2.3", 53)),
    lambda i: raw.sendto(b"\x08\0\xf7\xff\0\0\0\0" + large, (to, 0)),
]
threads = [threading.Thread(target=flood, args=(s,)) for s in steps]
for t in threads:
    t.start()
print("flooding", flush=True)
for t in threads:
    t.join()
print("opened %d" % len(kept), flush=True)
