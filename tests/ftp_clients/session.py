"""Python's ftplib against a node: every command that it offers, plain and under TLS, many sessions at once.

Usage: session.py HOST PORT USER PASSWORD   (share docs, empty)
"""

import concurrent.futures
import ftplib
import hashlib
import io
import os
import socket
import ssl
import struct
import sys

HOST, PORT, USER, PASSWORD = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]


def plain():
    ftp = ftplib.FTP()
    ftp.connect(HOST, PORT, timeout=60)
    ftp.encoding = "utf-8"
    ftp.login(USER, PASSWORD)
    return ftp


def tls():
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ftp = ftplib.FTP_TLS(context=context, timeout=60)
    ftp.connect(HOST, PORT)
    ftp.encoding = "utf-8"
    ftp.login(USER, PASSWORD)
    ftp.prot_p()
    return ftp


def store(ftp, name, data):
    return ftp.storbinary("STOR " + name, io.BytesIO(data))


def fetch(ftp, name, rest=None):
    out = io.BytesIO()
    ftp.retrbinary("RETR " + name, out.write, rest=rest)
    return out.getvalue()


def refused(code, call, *args):
    try:
        call(*args)
    except ftplib.all_errors as error:
        assert str(error).startswith(code), (code, str(error))
        return str(error)
    raise AssertionError(f"{code} expected, but it was done: {args}")


def tour(make, top):
    """One session through everything."""
    ftp = make()
    assert ftp.nlst("/") == ["/docs"], ftp.nlst("/")
    assert ftp.mkd("/docs/" + top) == "/docs/" + top
    ftp.cwd("/docs/" + top)
    assert ftp.pwd() == "/docs/" + top
    data = os.urandom(3_000_001)
    assert store(ftp, "ä b.bin", data).startswith("226")
    assert fetch(ftp, "ä b.bin") == data
    assert fetch(ftp, "ä b.bin", rest=1_000_000) == data[1_000_000:]
    assert ftp.size("ä b.bin") == len(data)
    store(ftp, "empty", b"")
    assert fetch(ftp, "empty") == b""

    # Append and resume.
    ftp.storbinary("APPE ä b.bin", io.BytesIO(b"tail"))
    assert fetch(ftp, "ä b.bin") == data + b"tail"
    ftp.storbinary("STOR ä b.bin", io.BytesIO(b"new end"), rest=100)
    data = data[:100] + b"new end"
    assert fetch(ftp, "ä b.bin") == data

    # Text.
    ftp.storlines("STOR text", io.BytesIO(b"one\ntwo\n"))
    assert fetch(ftp, "text") == b"one\ntwo\n"
    lines = []
    ftp.retrlines("RETR text", lines.append)
    assert lines == ["one", "two"], lines

    # Listings.
    assert sorted(ftp.nlst()) == ["empty", "text", "ä b.bin"]
    assert ftp.nlst("t*") == ["text"]
    facts = dict(ftp.mlsd())
    assert facts["empty"]["type"] == "file" and facts["empty"]["size"] == "0", facts
    assert "r" in facts["text"]["perm"] and len(facts["text"]["modify"]) == 14, facts
    long = []
    ftp.dir("-la", long.append)
    assert any(line.endswith(" ä b.bin") and line.startswith("-rw") for line in long), long

    # Times, hashes, modes.
    assert ftp.sendcmd("MFMT 20200102030405 text") == "213 Modify=20200102030405; /docs/%s/text" % top
    assert ftp.sendcmd("MDTM text") == "213 20200102030405"
    ftp.sendcmd("SITE UTIME 20210102030405 text")
    assert ftp.sendcmd("MDTM text") == "213 20210102030405"
    ftp.sendcmd("SITE CHMOD 600 text")
    assert "UNIX.mode=0600" in ftp.sendcmd("MLST text")
    expected = hashlib.sha256(data).hexdigest()
    assert ftp.sendcmd("HASH ä b.bin").split()[3] == expected
    ftp.sendcmd("OPTS HASH MD5")
    assert hashlib.md5(b"one\ntwo\n").hexdigest() in ftp.sendcmd("HASH text")
    assert ftp.sendcmd("XSHA256 ä b.bin") == "250 " + expected.upper()
    assert ftp.sendcmd('XMD5 "ä b.bin" 0 100') == "250 " + hashlib.md5(data[:100]).hexdigest().upper()

    # Names.
    ftp.rename("text", "text 2")
    refused("550", ftp.size, "text")
    store(ftp, "other", b"x")
    ftp.rename("other", "text 2")
    assert fetch(ftp, "text 2") == b"x"
    ftp.mkd("sub")
    refused("550", ftp.rmd, "/docs/" + top)
    refused("550", ftp.delete, "sub")
    refused("550", ftp.mkd, "sub")
    ftp.rmd("sub")
    refused("550", fetch, ftp, "sub")
    refused("550", ftp.cwd, "text 2")
    refused("550", ftp.mkd, "/nowhere")
    refused("550", store, ftp, "/x", b"1")
    ftp.cwd("../../../../../..")
    assert ftp.pwd() == "/"
    ftp.cwd("docs/" + top)
    for name in ftp.nlst():
        ftp.delete(name)
    ftp.cwd("..")
    ftp.rmd(top)
    assert "REST STREAM" in ftp.sendcmd("FEAT")
    ftp.quit()


def abort_keeps_the_old(make):
    """Half an upload is not to be seen, however it ends."""
    ftp, watcher = make(), make()
    store(ftp, "/docs/kept", b"old")
    for end in ("abor", "control", "reset"):
        ftp.voidcmd("TYPE I")
        data = ftp.transfercmd("STOR /docs/kept")
        data.sendall(b"half" * 50_000)
        assert fetch(watcher, "/docs/kept") == b"old"
        if end == "abor":
            ftp.putline("ABOR")
            assert ftp.getmultiline().startswith("426")
            assert ftp.getmultiline().startswith("226")
            data.close()
        elif end == "control":
            ftp.close()
            # The data connection is ended by the server once it has noticed.
            try:
                while data.recv(1):
                    pass
            except OSError:
                pass
            ftp = make()
        else:
            data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            data.close()
            assert ftp.getmultiline().startswith("426")
        assert fetch(watcher, "/docs/kept") == b"old"
        assert store(ftp, "/docs/kept", b"old").startswith("226")
    ftp.delete("/docs/kept")
    ftp.quit()
    watcher.quit()


def main():
    for make, top in ((plain, "plain"), (tls, "tls")):
        tour(make, top)
    abort_keeps_the_old(plain)
    refused("530", bad_login)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: tour(tls if n % 4 == 0 else plain, f"many{n}"), range(48)))
    print("ok")


def bad_login():
    ftp = ftplib.FTP()
    ftp.connect(HOST, PORT, timeout=60)
    ftp.login(USER, "wrong")


main()
