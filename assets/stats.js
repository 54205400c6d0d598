/** Reads what the page shows of a connection from getStats. */

/** @import { Peer } from "./signal.js" */

/**
 * What is known of the connection to a peer. Words are those of the WebRTC specifications, and empty
 * while there is no path; the round trip time is in seconds.
 *
 * @typedef {Awaited<ReturnType<typeof inspect>>} Connection
 */

/**
 * A connection beside what was measured of it, in bits per second.
 *
 * @typedef {Connection & {name: string, down: number, up: number}} Measured
 */

/**
 * Describes the connection to a peer.
 *
 * @param {Peer} peer
 */
export async function inspect(peer) {
  const { pc, channel, id } = peer;
  /** @type {any[]} */
  const report = pc.connectionState === "closed" ? [] : [...(await pc.getStats()).values()];
  const byId = new Map(report.map((entry) => [entry.id, entry]));
  const pair = selectedPair(report, byId);
  const local = byId.get(pair?.localCandidateId);
  const remote = byId.get(pair?.remoteCandidateId);
  const total = (/** @type {string} */ type, /** @type {string} */ field) =>
    report
      .filter((entry) => entry.type === type && entry.kind === "video")
      .reduce((sum, entry) => sum + (entry[field] ?? 0), 0);
  return {
    id,
    connectionState: pc.connectionState,
    iceConnectionState: pc.iceConnectionState,
    localType: local?.candidateType ?? "",
    remoteType: remote?.candidateType ?? "",
    protocol: local?.protocol ?? "",
    relayProtocol: local?.relayProtocol ?? "",
    relayUrl: local?.candidateType === "relay" ? (local.url ?? "") : "",
    framesDecoded: total("inbound-rtp", "framesDecoded"),
    framesSent: total("outbound-rtp", "framesSent"),
    bytesReceived: pair?.bytesReceived ?? 0,
    bytesSent: pair?.bytesSent ?? 0,
    roundTripTime: pair?.currentRoundTripTime ?? 0,
    dataChannel: channel.readyState,
  };
}

/**
 * Not every browser has transport statistics; a nominated pair that works is the same one.
 *
 * @param {any[]} report
 * @param {Map<string, any>} byId
 */
function selectedPair(report, byId) {
  const transport = report.find((entry) => entry.type === "transport" && entry.selectedCandidatePairId);
  if (transport) return byId.get(transport.selectedCandidatePairId);
  return report.find(
    (entry) => entry.type === "candidate-pair" && (entry.selected || (entry.nominated && entry.state === "succeeded")),
  );
}

/**
 * Names the way that the packets take, such as "relay / udp".
 *
 * @param {Connection} connection
 */
export function route({ localType, remoteType, protocol, relayProtocol }) {
  if (!localType) return "";
  const relayed = localType === "relay" || remoteType === "relay";
  return `${relayed ? "relay" : localType} / ${localType === "relay" ? relayProtocol || protocol : protocol}`;
}

/**
 * Names a bitrate for people.
 *
 * @param {number} bitsPerSecond
 */
export function speak(bitsPerSecond) {
  if (bitsPerSecond >= 1e6) return `${(bitsPerSecond / 1e6).toFixed(1)} Mbit/s`;
  return `${Math.round(bitsPerSecond / 1e3)} kbit/s`;
}

/** Turns growing byte counts into bitrates. */
export class Rates {
  /** @type {Map<string, {bytes: number, now: number}>} By key; `now` in milliseconds. */
  #last = new Map();

  /**
   * Returns the bits per second since the last call for the same key.
   *
   * @param {string} key
   * @param {number} bytes How many there were in all.
   */
  of(key, bytes) {
    const now = performance.now();
    const last = this.#last.get(key) ?? { bytes, now };
    this.#last.set(key, { bytes, now });
    const seconds = (now - last.now) / 1000;
    // Another candidate pair counts from zero.
    return seconds > 0 && bytes >= last.bytes ? ((bytes - last.bytes) * 8) / seconds : 0;
  }

  /**
   * Forgets the keys of a peer that left.
   *
   * @param {string[]} keys
   */
  forget(...keys) {
    for (const key of keys) this.#last.delete(key);
  }
}
