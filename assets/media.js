/** Own media: camera and microphone, the screen, or a test picture with a soft tone. */

const CAMERA = {
  audio: { echoCancellation: true, noiseSuppression: true },
  video: { width: { ideal: 640 }, height: { ideal: 360 }, frameRate: { ideal: 24, max: 30 } },
};
const FRAMES_PER_SECOND = 15;

/** @typedef {"audio"|"video"} Kind */

/**
 * Says in plain words why there is no camera or microphone, and what to do.
 *
 * @param {Error} error
 */
function explain(error) {
  if (!navigator.mediaDevices) {
    return "Browsers give camera and microphone only to pages on https or localhost. Open the page there.";
  }
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The browser did not allow camera or microphone. Allow them beside the address, then join again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No camera or microphone was found. Plug one in and join again.";
    case "NotReadableError":
    case "AbortError":
      return "The camera or microphone is in use by another program. Close that one and join again.";
    default:
      return `Camera and microphone could not be opened (${error.message || error.name}).`;
  }
}

/** The tracks that are sent to the others. It dispatches `change` whenever one of them changes. */
export class LocalMedia extends EventTarget {
  /** @type {Record<Kind, MediaStreamTrack|null>} */
  tracks = { audio: null, video: null };
  sharing = false;
  /** Whether the picture is a real camera's, which people expect to see mirrored. */
  mirrored = false;

  #label = "";
  /** @type {MediaStreamTrack|null} What was sent before the screen. */
  #camera = null;
  /** @type {Synthetic|null} */
  #synthetic = null;

  /**
   * Opens what is to be sent. Missing devices are replaced by the test picture and the tone.
   *
   * @param {"camera"|"synthetic"|"none"} kind
   * @param {string} label What the test picture shows.
   * @returns {Promise<string>} What went wrong, in plain words; empty when nothing did.
   */
  async start(kind, label) {
    this.stop();
    this.#label = label;
    if (kind === "none") return "";
    if (kind === "synthetic") {
      this.#fill();
      return "";
    }
    const problem = await this.#open([CAMERA, { audio: CAMERA.audio }, { video: CAMERA.video }]);
    this.#fill();
    return problem;
  }

  /** Stops everything and gives the devices back. */
  stop() {
    for (const track of [this.tracks.audio, this.tracks.video, this.#camera]) track?.stop();
    this.#synthetic?.stop();
    this.#camera = this.#synthetic = null;
    this.sharing = this.mirrored = false;
    this.tracks = { audio: null, video: null };
    this.#changed();
  }

  /**
   * Turns sound or picture on or off, and opens the device when nothing was sent so far.
   *
   * @param {Kind} kind
   * @returns {Promise<string>} What went wrong, in plain words; empty when nothing did.
   */
  async toggle(kind) {
    const track = this.tracks[kind];
    if (track) {
      track.enabled = !track.enabled;
      this.#changed();
      return "";
    }
    const problem = await this.#open([{ [kind]: CAMERA[kind] }]);
    this.#fill([kind]);
    return problem;
  }

  /**
   * Tells whether there is sound or a picture that is not turned off.
   *
   * @param {Kind} kind
   */
  on(kind) {
    return Boolean(this.tracks[kind]?.enabled);
  }

  /** Starts or stops sending the screen in place of the camera. */
  async share() {
    if (this.sharing) {
      this.#unshare();
      return;
    }
    const stream = await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { max: 15 } } });
    const [screen] = stream.getVideoTracks();
    screen.contentHint = "detail";
    screen.onended = () => this.#unshare();
    this.#camera = this.tracks.video;
    this.tracks.video = screen;
    this.sharing = true;
    this.#changed();
  }

  #unshare() {
    if (!this.sharing) return;
    this.tracks.video?.stop();
    this.tracks.video = this.#camera;
    this.#camera = null;
    this.sharing = false;
    this.#changed();
  }

  /**
   * Opens the first of several sets of devices that works.
   *
   * @param {MediaStreamConstraints[]} attempts
   */
  async #open(attempts) {
    let problem = "";
    for (const wanted of attempts) {
      try {
        const stream = await navigator.mediaDevices.getUserMedia(wanted);
        for (const track of stream.getTracks()) this.tracks[/** @type {Kind} */ (track.kind)] = track;
        if (wanted.video) this.mirrored = true;
        break;
      } catch (reason) {
        const error = /** @type {Error} */ (reason);
        problem ||= explain(error);
        if (!navigator.mediaDevices || error.name === "NotAllowedError") break;
      }
    }
    return problem && `${problem} Until then the others get a test picture and a soft tone.`;
  }

  /** Puts synthetic media where there is none. */
  #fill(kinds = /** @type {Kind[]} */ (["audio", "video"])) {
    this.#synthetic ??= new Synthetic(this.#label);
    for (const missing of kinds) {
      this.tracks[missing] ??= this.#synthetic[missing]();
    }
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** A moving picture and a soft tone that differ from one person to the next. */
class Synthetic {
  #label;
  #hue;
  #timer = 0;
  /** @type {AudioContext|null} */
  #audio = null;

  /** @param {string} label What the picture shows. */
  constructor(label) {
    this.#label = label;
    this.#hue = hueOf(label);
  }

  video() {
    const canvas = document.createElement("canvas");
    canvas.width = 640;
    canvas.height = 360;
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const draw = () => paint(pen, this.#label, this.#hue, performance.now() / (calm ? 8000 : 1000));
    draw();
    this.#timer = setInterval(draw, 1000 / FRAMES_PER_SECOND);
    return canvas.captureStream(FRAMES_PER_SECOND).getVideoTracks()[0];
  }

  /** The tone goes only to the others: it is never connected to the own loudspeaker. */
  audio() {
    const audio = new AudioContext();
    this.#audio = audio;
    const out = audio.createMediaStreamDestination();
    const level = new GainNode(audio, { gain: 0.015 });
    const tone = new OscillatorNode(audio, { frequency: 220 + this.#hue / 2 });
    const swell = new OscillatorNode(audio, { frequency: 0.4 });
    const depth = new GainNode(audio, { gain: 0.015 });
    swell.connect(depth).connect(level.gain);
    tone.connect(level).connect(out);
    tone.start();
    swell.start();
    wake(audio);
    return out.stream.getAudioTracks()[0];
  }

  stop() {
    clearInterval(this.#timer);
    this.#audio?.close();
  }
}

/** Without a gesture of the user browsers keep audio asleep. @param {AudioContext} audio */
function wake(audio) {
  if (audio.state === "running") return;
  const resume = () => audio.state === "suspended" && audio.resume();
  for (const gesture of ["pointerdown", "keydown"]) addEventListener(gesture, resume, { once: true });
}

/**
 * Returns a colour's hue that stays the same for a text, in degrees.
 *
 * @param {string} text
 */
export function hueOf(text) {
  let hash = 2166136261;
  for (const char of text) hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 16777619) >>> 0;
  return ((hash ^ (hash >>> 15)) >>> 0) % 360;
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {string} label
 * @param {number} hue In degrees.
 * @param {number} seconds How far the picture has moved.
 */
function paint(pen, label, hue, seconds) {
  const { width, height } = pen.canvas;
  const sky = pen.createLinearGradient(0, 0, width, height);
  sky.addColorStop(0, `hsl(${hue} 42% 34%)`);
  sky.addColorStop(1, `hsl(${(hue + 50) % 360} 46% 20%)`);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, width, height);
  for (let i = 0; i < 5; i++) {
    const angle = seconds * (0.25 + i * 0.07) + i * 1.3;
    pen.beginPath();
    pen.arc(
      width * (0.5 + 0.4 * Math.cos(angle)),
      height * (0.5 + 0.4 * Math.sin(angle * 1.3)),
      46 + i * 16,
      0,
      2 * Math.PI,
    );
    pen.fillStyle = `hsl(${(hue + i * 24) % 360} 60% 62% / 0.2)`;
    pen.fill();
  }
  pen.textAlign = "center";
  pen.fillStyle = "hsl(0 0% 100% / 0.94)";
  pen.font = "600 44px system-ui, sans-serif";
  pen.fillText(label, width / 2, height / 2, width * 0.9);
  pen.fillStyle = "hsl(0 0% 100% / 0.7)";
  pen.font = "22px ui-monospace, monospace";
  pen.fillText(new Date().toISOString().slice(11, 21), width / 2, height / 2 + 42);
}
