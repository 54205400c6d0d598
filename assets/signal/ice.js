/**
 * How a call may connect: directly or relayed (`all`), only through TURN (`relay`), and only through
 * TURN that is itself reached over UDP (`relay-udp`), over TCP or TLS (`relay-tcp`) or over TLS
 * (`relay-tls`).
 *
 * @typedef {"all"|"relay"|"relay-udp"|"relay-tcp"|"relay-tls"} Transport
 */

/**
 * Returns the configuration of a peer connection for a way to connect.
 *
 * @param {RTCIceServer[]} iceServers
 * @param {Transport} transport
 * @returns {RTCConfiguration}
 */
export function iceConfiguration(iceServers, transport) {
  if (transport === "all") return { iceServers, iceTransportPolicy: "all" };
  const servers = iceServers
    .map((server) => ({ ...server, urls: [server.urls].flat().filter((url) => relays(url, transport)) }))
    .filter(({ urls }) => urls.length > 0);
  return { iceServers: servers, iceTransportPolicy: "relay" };
}

/** @param {string} url @param {Transport} transport Any but `all`. */
function relays(url, transport) {
  const scheme = url.split(":", 1)[0].toLowerCase();
  if (scheme !== "turn" && scheme !== "turns") return false;
  if (transport === "relay") return true;
  if (transport === "relay-tls") return scheme === "turns";
  const named = /[?&]transport=(\w+)/i.exec(url)?.[1]?.toLowerCase();
  return (named ?? (scheme === "turns" ? "tcp" : "udp")) === transport.slice("relay-".length);
}
