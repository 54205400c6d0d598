/** @import { SignalClient } from "./client.js" */

/** How long the later joiner leaves the first offer to the other side. */
const FIRST_OFFER_MS = 1_500;
/** After this long without an answer an offer may not have arrived. */
const OVERDUE_MS = 1_000;
const MAX_EARLY_CANDIDATES = 256;
/** Below this many bits per second pictures are sent at half their size. */
const SMALL_BITRATE = 700_000;

/**
 * Whom a {@link Peer} tells what happens to it.
 *
 * @typedef {object} PeerOwner
 * @property {(peer: Peer) => void} changed Its connection state changed.
 * @property {(peer: Peer, track: MediaStreamTrack) => void} tracked It sends a track.
 * @property {(peer: Peer) => void} opened Its data channel is open.
 * @property {(peer: Peer, data: any) => void} received It sent something over the data channel.
 * @property {(peer: Peer, error: Error) => void} failed A step of the negotiation failed.
 */

/**
 * Returns the session of the connection that a description is of (RFC 8829, section 5.2.1).
 *
 * @param {RTCSessionDescriptionInit} description
 */
function sessionOf({ sdp }) {
  return /^o=\S+ (\S+)/m.exec(sdp ?? "")?.[1] ?? "";
}

/**
 * Returns the name of the ICE credentials of a description (RFC 8839, section 5.4), which are others after a restart.
 *
 * @param {RTCSessionDescriptionInit|null} description
 */
function ufragOf(description) {
  return /^a=ice-ufrag:(\S+)/m.exec(description?.sdp ?? "")?.[1] ?? "";
}

/**
 * One other member of the room and the connection to it.
 *
 * It negotiates by the perfect negotiation pattern of the WebRTC specification: either side may
 * offer at any time, and when two offers meet, the polite side takes its own back.
 */
export class Peer {
  /** The user id of the member. */
  id;
  pc;
  /** The data channel, the same on both sides without any negotiation. */
  channel;
  /** What the member sends: at most one track of each kind. */
  stream = new MediaStream();

  #owner;
  #client;
  #polite;
  #closed = false;
  #makingOffer = false;
  #ignoreOffer = false;
  #settingAnswer = false;
  #tooLarge = false; // whether the last offer was larger than the server takes
  /** @type {RTCIceCandidateInit[]} Candidates that came before the description they belong to. */
  #early = [];
  #firstOffer = 0;
  #offeredAt = 0; // when the last offer was sent, in ms since the epoch
  /** @type {RTCConfiguration|null} What is to be used from the next ICE restart on. */
  #fresh = null;
  #session = ""; // that of the member's connection, as its descriptions name it
  /** @type {Map<string, RTCRtpSender>} By the kind of what is sent. */
  #senders = new Map();

  /**
   * Peers are made by a call.
   *
   * @param {PeerOwner} owner
   * @param {SignalClient} client Takes descriptions and candidates to the member.
   * @param {string} id The user id of the member.
   * @param {boolean} polite Whether this side takes its own offer back when two meet.
   * @param {RTCConfiguration} configuration
   */
  constructor(owner, client, id, polite, configuration) {
    this.#owner = owner;
    this.#client = client;
    this.#polite = polite;
    this.id = id;
    this.pc = new RTCPeerConnection({ ...configuration, bundlePolicy: "max-bundle" });
    this.pc.onnegotiationneeded = () => this.#negotiate();
    this.pc.onicecandidate = ({ candidate }) => this.#sendCandidate(candidate);
    this.pc.oniceconnectionstatechange = () => {
      if (this.pc.iceConnectionState === "failed") this.#restart();
    };
    this.pc.onconnectionstatechange = () => owner.changed(this);
    this.pc.ontrack = ({ track }) => this.#received(track);
    this.channel = this.pc.createDataChannel("data", { negotiated: true, id: 0 });
    this.channel.onopen = () => owner.opened(this);
    this.channel.onmessage = ({ data }) => owner.received(this, data);
  }

  /**
   * Sends a track, or nothing when it is null, in place of what was sent of its kind.
   *
   * @param {string} kind
   * @param {MediaStreamTrack|null} track
   * @param {MediaStream} stream What the track is a part of.
   */
  async setTrack(kind, track, stream) {
    const sender = this.#senders.get(kind);
    this.#tooLarge = false;
    if (sender) await sender.replaceTrack(track);
    else if (track) this.#senders.set(kind, this.pc.addTrack(track, stream));
  }

  /**
   * Limits what is sent of video; a small picture is all that fits into little.
   *
   * @param {number} maxBitrate Bits per second.
   */
  async limitVideo(maxBitrate) {
    const sender = this.#senders.get("video");
    if (!sender) return;
    const parameters = sender.getParameters();
    const [encoding] = parameters.encodings ?? [];
    const small = maxBitrate < SMALL_BITRATE && sender.track?.contentHint !== "detail";
    const scaleResolutionDownBy = small ? 2 : 1;
    const same = encoding?.maxBitrate === maxBitrate && encoding.scaleResolutionDownBy === scaleResolutionDownBy;
    if (!encoding || same) return;
    Object.assign(encoding, { maxBitrate, scaleResolutionDownBy });
    await sender.setParameters(parameters).catch(() => {}); // It is only a wish.
  }

  /**
   * Uses other ICE servers from the next ICE restart on. Browsers make the next offer one when they are told of others, and
   * a connection that works does not need that.
   *
   * @param {RTCConfiguration} configuration
   */
  configure(configuration) {
    this.#fresh = configuration;
    if (this.pc.connectionState !== "connected") this.#freshen();
  }

  #freshen() {
    if (this.#fresh) this.pc.setConfiguration({ ...this.pc.getConfiguration(), ...this.#fresh });
    this.#fresh = null;
  }

  #restart() {
    this.#freshen();
    this.pc.restartIce();
  }

  /**
   * Looks for another path if the present one goes through a relay of ours that does not last.
   *
   * @param {Set<string>} lasting The URLs of the relays that last.
   */
  async leaveRelay(lasting) {
    /** @type {Map<string|undefined, any>} */
    const stats = new Map(await this.pc.getStats());
    const pair = stats.get([...stats.values()].find(({ type }) => type === "transport")?.selectedCandidatePairId);
    const local = stats.get(pair?.localCandidateId);
    if (local?.candidateType === "relay" && !lasting.has(local.url)) this.#restart();
  }

  /**
   * Goes on with a negotiation of which messages may be lost. A connection that works is offered once
   * more as it is, since the member may wait for what does not come; another one looks for a path anew.
   */
  resync() {
    if (this.pc.signalingState === "have-local-offer") this.#sendDescription();
    else if (this.pc.connectionState === "connected") this.#offer();
    if (this.pc.connectionState !== "connected") this.#restart();
  }

  /** Ends the connection. */
  close() {
    this.#closed = true;
    clearTimeout(this.#firstOffer);
    this.pc.close();
    for (const track of this.stream.getTracks()) track.stop();
  }

  /** @param {MediaStreamTrack} track */
  #received(track) {
    for (const old of this.stream.getTracks()) {
      if (old.kind === track.kind) this.stream.removeTrack(old);
    }
    this.stream.addTrack(track);
    this.#owner.tracked(this, track);
  }

  /**
   * Both sides of a new connection want to negotiate at once. The later joiner waits a little for
   * the offer of the other side, so that the first two offers do not meet as a matter of course.
   */
  #negotiate() {
    if (this.#tooLarge) return;
    if (!this.#polite || this.pc.remoteDescription) {
      this.#offer();
      return;
    }
    clearTimeout(this.#firstOffer);
    this.#firstOffer = setTimeout(() => {
      if (!this.pc.remoteDescription && this.pc.signalingState === "stable") this.#offer();
    }, FIRST_OFFER_MS);
  }

  async #offer() {
    try {
      this.#makingOffer = true;
      await this.pc.setLocalDescription();
      this.#sendDescription();
    } catch (error) {
      this.#failed(error);
    } finally {
      this.#makingOffer = false;
    }
  }

  /**
   * Says whether a description is of another connection of the member than the one so far.
   *
   * @param {RTCSessionDescriptionInit} description
   */
  isFromAnother(description) {
    return this.#session !== "" && sessionOf(description) !== this.#session;
  }

  /**
   * Takes an offer or an answer of the member.
   *
   * @param {RTCSessionDescriptionInit} description
   */
  async describe(description) {
    try {
      const ready =
        !this.#makingOffer && (this.pc.signalingState === "stable" || this.#settingAnswer);
      const collision = description.type === "offer" && !ready;
      this.#ignoreOffer = !this.#polite && collision;
      // An answer without an offer is one that came twice, because its sender resumed its session.
      const stale = description.type === "answer" && this.pc.signalingState === "stable";
      if (this.#ignoreOffer && Date.now() - this.#offeredAt > OVERDUE_MS) this.#sendDescription();
      if (this.#ignoreOffer || stale) return;
      clearTimeout(this.#firstOffer);
      this.#settingAnswer = description.type === "answer";
      if (ufragOf(description) !== ufragOf(this.pc.remoteDescription)) this.#freshen();
      await this.pc.setRemoteDescription(description);
      this.#session = sessionOf(description);
      this.#settingAnswer = this.#tooLarge = false;
      await this.#addEarly();
      if (description.type === "offer") {
        await this.pc.setLocalDescription();
        this.#sendDescription();
      }
    } catch (error) {
      this.#settingAnswer = false;
      this.#failed(error);
    }
  }

  /**
   * Takes a candidate of the member.
   *
   * @param {RTCIceCandidateInit} candidate
   */
  async candidate(candidate) {
    if (!this.pc.remoteDescription) {
      // Candidates of an offer that was ignored have nothing to wait for.
      if (!this.#ignoreOffer && this.#early.length < MAX_EARLY_CANDIDATES) this.#early.push(candidate);
      return;
    }
    try {
      await this.pc.addIceCandidate(candidate);
    } catch (error) {
      if (!this.#ignoreOffer) this.#failed(error);
    }
  }

  async #addEarly() {
    for (const candidate of this.#early.splice(0)) await this.candidate(candidate);
  }

  #sendDescription() {
    const description = this.pc.localDescription;
    if (description?.type === "offer") this.#offeredAt = Date.now();
    if (description) this.#client.sendDescription(this.id, description).catch((error) => this.#refused(description, error));
  }

  /**
   * Takes an offer back that is larger than the server takes: the connection goes on as it is, and the member can offer. The
   * browser still wants to negotiate, but not before something has changed.
   *
   * @param {RTCSessionDescription} description
   * @param {any} error
   */
  async #refused({ type }, error) {
    this.#failed(error);
    if (error.code !== 413 || type !== "offer" || this.pc.signalingState !== "have-local-offer") return;
    this.#tooLarge = true;
    await this.pc.setLocalDescription({ type: "rollback" }).catch((reason) => this.#failed(reason));
  }

  /** @param {RTCIceCandidate|null} candidate */
  #sendCandidate(candidate) {
    // The end of candidates is implied in their absence, and the contract has no message for it.
    if (!candidate?.candidate) return;
    this.#client.sendCandidate(this.id, candidate).catch((error) => this.#failed(error));
  }

  /** @param {unknown} error */
  #failed(error) {
    if (!this.#closed) this.#owner.failed(this, /** @type {Error} */ (error));
  }
}
