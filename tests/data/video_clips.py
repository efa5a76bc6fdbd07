"""Small videos made on the spot: a textured picture seen through a window that moves by a known step a frame."""

from fractions import Fraction

import av
import cv2
import numpy as np


def panorama(height=400, width=800, seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, None, 2), None, 0, 255, cv2.NORM_MINMAX)


def pan(count, step=(3, 2), size=(96, 160)):
    """Frames in which what is seen at (x, y) was at (x, y) + step one frame before."""
    picture, (dx, dy), (h, w) = panorama(), step, size
    ox, oy = (max(0, -d * count) for d in step)
    frames = [picture[oy + i * dy : oy + i * dy + h, ox + i * dx : ox + i * dx + w] for i in range(count)]
    return [np.ascontiguousarray(frame) for frame in frames]


def write_clip(
    path,
    frames,
    codec="libx264",
    *,
    fps=25,
    times=None,
    rotation=None,
    sound=None,
    b_frames=0,
    gop=None,
    **options,
):
    """Encode frames `[H, W, 3]` RGB. times: seconds of each. rotation: degrees counter-clockwise to show it upright.
    sound: an audio codec, a tone as long as the video."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=fps, options={k.replace("_", "-"): str(v) for k, v in options.items()})
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        video.bit_rate = 4_000_000
        video.codec_context.max_b_frames = b_frames
        if gop:
            video.codec_context.gop_size = gop
        if times is not None:
            video.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            video.set_display_rotation(rotation)
        audio = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = round(times[i] * 1000), Fraction(1, 1000)
            out.mux(video.encode(picture))
        out.mux(video.encode(None))
        if audio:
            length = int(48000 * len(frames) / fps)
            for at in range(0, length, 1024):
                wave = np.sin(np.arange(at, min(at + 1024, length)) / 20)[None]
                tone = av.AudioFrame.from_ndarray((wave * 9000).astype(np.int16), format="s16", layout="mono")
                tone.sample_rate, tone.pts, tone.time_base = 48000, at, Fraction(1, 48000)
                out.mux(audio.encode(tone))
            out.mux(audio.encode(None))
    return path


def copy_stream(source, path, kind):
    """One stream of a file, not encoded again, in an MP4 whose index comes first."""
    with av.open(str(source)) as file, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = file.streams.best(kind)
        track = out.add_stream_from_template(stream)
        for packet in file.demux(stream):
            if packet.dts is not None:
                packet.stream = track
                out.mux(packet)
    return path


def streams(path):
    """{type: (codec, frames, seconds)} of a file."""
    with av.open(str(path)) as file:
        return {
            s.type: (s.codec_context.codec.canonical_name, s.frames, float(s.duration * s.time_base))
            for s in file.streams
        }
