import { Emitter } from "./emitter.js";
import { iceConfiguration } from "./ice.js";
import { Peer } from "./peer.js";

/** @import { SignalClient } from "./client.js" */
/** @import { Transport } from "./ice.js" */

/**
 * The details of a {@link Call}'s events.
 *
 * @typedef {object} CallEvents
 * @property {{peer: Peer}} peer A member appeared; its connection is being made.
 * @property {{peer: Peer}} peerleft A member left; its connection is closed.
 * @property {{peer: Peer, state: RTCPeerConnectionState}} peerstate `peer.pc.connectionState` changed.
 * @property {{peer: Peer, track: MediaStreamTrack}} track The member sends a track; it is in
 *   `peer.stream`.
 * @property {{peer: Peer}} open The data channel to the member is open.
 * @property {{peer: Peer, data: any}} data The member sent something over the data channel.
 * @property {{peer: Peer, error: Error}} error A step of the negotiation failed.
 */

/**
 * The connections to all other members of the room that a {@link SignalClient} is in.
 *
 * Its events are CustomEvents; {@link CallEvents} lists them.
 *
 * @extends {Emitter<CallEvents>}
 */
export class Call extends Emitter {
  /** @type {Map<string, Peer>} The other members, by user id. */
  peers = new Map();
  /** What is sent to everybody: at most one track of each kind. */
  stream = new MediaStream();

  #client;
  #transport;
  #uplink;
  #self = "";
  /** @type {import("./peer.js").PeerOwner} */
  #owner = {
    changed: (peer) => this.#changed(peer),
    tracked: (peer, track) => this.emit("track", { peer, track }),
    opened: (peer) => this.emit("open", { peer }),
    received: (peer, data) => this.emit("data", { peer, data }),
    failed: (peer, error) => this.emit("error", { peer, error }),
  };

  /**
   * @param {SignalClient} client The connection whose room the call takes place in.
   * @param {{transport?: Transport, uplink?: number}} [options] `transport`: `all` by default;
   *   `uplink`: bits per second of video that are shared out among all members, 4,000,000 by default.
   */
  constructor(client, { transport = "all", uplink = 4_000_000 } = {}) {
    super();
    this.#client = client;
    this.#transport = transport;
    this.#uplink = uplink;
    client.addEventListener("joined", ({ detail }) => this.#joined(detail));
    client.addEventListener("userjoined", ({ detail: { userId, users } }) => this.#add(userId, users));
    client.addEventListener("userleft", ({ detail: { userId } }) => this.#remove(userId));
    client.addEventListener("left", () => this.#clear());
    client.addEventListener("resumed", ({ detail: { gap } }) => gap && this.#resync());
    client.addEventListener("ice", () => this.#configure());
    client.addEventListener("offer", ({ detail: { from, data } }) => this.#offered(from, { type: "offer", sdp: data.sdp }));
    client.addEventListener("answer", ({ detail: { from, data } }) => this.#answered(from, { type: "answer", sdp: data.sdp }));
    client.addEventListener("candidate", ({ detail: { from, data } }) => this.peers.get(from)?.candidate(data));
  }

  /** How connections may be made; see {@link Transport}. */
  get transport() {
    return this.#transport;
  }

  /**
   * Sets how new connections may be made. Browsers keep the path of a connection that works even
   * when its policy changes, so leave and join the room again to have all connections obey.
   */
  set transport(transport) {
    this.#transport = transport;
  }

  /**
   * Sends a track to everybody, now and later, in place of the one of its kind that was sent so far.
   *
   * @param {string} kind `audio` or `video`.
   * @param {MediaStreamTrack|null} track Null to send nothing.
   */
  async setTrack(kind, track) {
    for (const old of this.stream.getTracks()) {
      if (old.kind === kind) this.stream.removeTrack(old);
    }
    if (track) this.stream.addTrack(track);
    await Promise.all([...this.peers.values()].map((peer) => peer.setTrack(kind, track, this.stream)));
    this.#shareUplink();
  }

  /**
   * Sends text over the data channels.
   *
   * @param {string} text
   * @param {string} [id] The member to send it to; everybody when it is missing.
   * @returns {number} To how many members it was handed.
   */
  send(text, id) {
    const to = id ? [this.peers.get(id)] : [...this.peers.values()];
    const open = to.filter((peer) => peer?.channel.readyState === "open");
    for (const peer of open) peer?.channel.send(text);
    return open.length;
  }

  /** @param {{userId: string, users: string[]}} membership */
  #joined({ userId, users }) {
    // Under a new id one is a new member to the others, and they have closed the old connections.
    if (userId !== this.#self) this.#clear();
    this.#self = userId;
    for (const id of [...this.peers.keys()]) {
      if (!users.includes(id)) this.#remove(id);
    }
    for (const id of users) this.#add(id, users);
  }

  /**
   * Takes an offer. A member that has begun anew has seen this side leave and join again, because
   * the node of one of them could not be reached: this side begins anew as well, as later joiner.
   *
   * @param {string} from
   * @param {RTCSessionDescriptionInit} description
   */
  #offered(from, description) {
    if (this.peers.get(from)?.isFromAnother(description)) {
      this.#remove(from);
      this.#connect(from, true);
    }
    this.peers.get(from)?.describe(description);
  }

  /**
   * Takes an answer. A member that has begun anew may have taken an offer for one of its new connection: the
   * tracks would go on over the old connection here, but its data channel ended with that of the member. So this side
   * begins anew as well, and offers at once, since the member waits for nothing.
   *
   * @param {string} from
   * @param {RTCSessionDescriptionInit} description
   */
  #answered(from, description) {
    const peer = this.peers.get(from);
    if (peer?.pc.signalingState === "have-local-offer" && peer.isFromAnother(description)) {
      this.#remove(from);
      this.#connect(from, false);
      return;
    }
    peer?.describe(description);
  }

  /** @param {string} id @param {string[]} users In join order. */
  #add(id, users) {
    if (id === this.#self || this.peers.has(id)) return;
    this.#connect(id, users.indexOf(this.#self) > users.indexOf(id));
  }

  /** @param {string} id @param {boolean} polite */
  #connect(id, polite) {
    const peer = new Peer(this.#owner, this.#client, id, polite, this.#configuration());
    this.peers.set(id, peer);
    for (const track of this.stream.getTracks()) peer.setTrack(track.kind, track, this.stream);
    this.emit("peer", { peer });
    this.#shareUplink();
  }

  /** @param {string} id */
  #remove(id) {
    const peer = this.peers.get(id);
    if (!peer) return;
    this.peers.delete(id);
    peer.close();
    this.emit("peerleft", { peer });
    this.#shareUplink();
  }

  #clear() {
    for (const id of [...this.peers.keys()]) this.#remove(id);
  }

  #resync() {
    for (const peer of this.peers.values()) peer.resync();
  }

  #configuration() {
    return iceConfiguration(this.#client.iceServers, this.#transport);
  }

  /** A node that goes away takes its relays along before long: goes over to others while they last. */
  #configure() {
    const lasting = new Set(this.#client.iceServers.flatMap(({ urls }) => urls));
    for (const peer of this.peers.values()) {
      try {
        peer.configure(this.#configuration());
        peer.leaveRelay(lasting).catch((error) => this.#owner.failed(peer, error));
      } catch (error) {
        this.#owner.failed(peer, /** @type {Error} */ (error));
      }
    }
  }

  #shareUplink() {
    const share = Math.round(this.#uplink / Math.max(1, this.peers.size));
    for (const peer of this.peers.values()) peer.limitVideo(share);
  }

  /** @param {Peer} peer */
  #changed(peer) {
    this.emit("peerstate", { peer, state: peer.pc.connectionState });
    if (peer.pc.connectionState === "connected") this.#shareUplink();
  }
}
