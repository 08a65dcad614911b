"""Cameras: an RTSP server on loopback with moving pictures of 160x120 under /c1, /c2, ...

One encoder per path, however many pull. Runs with the system's Python: rtsp_cams.py PORT COUNT
"""
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
for number in range(1, int(sys.argv[2]) + 1):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        "( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=5/1 ! "
        "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 bitrate=60 threads=1 ! "
        "video/x-h264,profile=constrained-baseline ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    server.get_mount_points().add_factory(f"/c{number}", factory)
if server.attach(None) == 0:
    raise SystemExit("the port is taken")
print("ready", flush=True)
GLib.MainLoop().run()
