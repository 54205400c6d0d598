package assets_test

import (
	"testing"

	"cline-meet/signal/assets/pagetest"
	"cline-meet/signal/packaging/systemtest"
)

// twoPeers are the sides of a call in one page, where the test is the server: candidates go through, and a description waits until
// it is taken to the other side, as often as the test wants.
const twoPeers = `(async () => {
	const { Peer } = await import("/signal/peer.js");
	const sides = window.sides = { errors: [] };
	const side = (name, other, polite) => {
		const all = { offer: [], answer: [] }, waiting = [];
		const sent = async (kind) => {
			while (!all[kind].length) await new Promise((resolve) => waiting.push(resolve));
			return all[kind].shift();
		};
		const client = {
			async sendDescription(_, { type, sdp }, offer) {
				all[type].push(JSON.parse(JSON.stringify({ type, sdp, offer })));
				for (const resolve of waiting.splice(0)) resolve();
			},
			async sendCandidate(_, candidate) { sides[other].candidate(JSON.parse(JSON.stringify(candidate))); },
		};
		const owner = { changed() {}, tracked() {}, opened() {}, received() {}, failed(_, error) { sides.errors.push(name + ": " + error); } };
		sides[name] = Object.assign(new Peer(owner, client, other, polite, {}), { sent });
	};
	side("rude", "polite", false);
	side("polite", "rude", true);
	return 0;
})()`

// agree says whether both sides are connected and each has the ICE credentials that the other one has, and what went wrong.
const agree = `(({ rude, polite, errors }) => {
	const ufrag = (description) => /^a=ice-ufrag:(.*)$/m.exec(description?.sdp)?.[1];
	const same = (a, b) => ufrag(a.pc.localDescription) === ufrag(b.pc.remoteDescription);
	const state = ({ pc }) => pc.signalingState + " " + pc.connectionState;
	return [state(rude), state(polite), same(rude, polite) && same(polite, rude), ...errors].join(", ");
})(window.sides)`

// TestLateDescriptions has descriptions come again or late, as they do when the node of a member dies: what is over changes nothing.
func TestLateDescriptions(t *testing.T) {
	t.Parallel()
	node, browser := systemtest.StartNode(t), pagetest.Start(t)
	for name, story := range map[string]string{
		"an offer that was taken back": `
			const offer = await rude.sent("offer"), over = await polite.sent("offer");
			await take(polite, offer);
			await take(rude, await polite.sent("answer"));
			await take(rude, over);
			if (rude.pc.localDescription.type !== "offer") throw new Error("it was answered");`,
		"an answer to the offer before": `
			const offer = await rude.sent("offer");
			await take(polite, offer);
			await take(rude, await polite.sent("answer"));
			await take(polite, offer);
			rude.pc.restartIce();
			const next = await rude.sent("offer");
			await take(rude, await polite.sent("answer"));
			await take(polite, next);
			await take(rude, await polite.sent("answer"));`,
		"an answer twice at once": `
			const offer = await rude.sent("offer");
			await take(polite, offer);
			const answer = await polite.sent("answer");
			await Promise.all([take(rude, answer), take(rude, answer)]);`,
	} {
		t.Run(name, func(t *testing.T) {
			page := browser.Open(t, node.URL)
			pagetest.Evaluate[int](page, twoPeers)
			pagetest.Evaluate[int](page, `(async ({ rude, polite }) => {
				const take = (side, message) => side.describe(message, message.offer);`+story+`
				return 0;
			})(window.sides)`)
			pagetest.Until(page, "the sides agree", agree, func(all string) bool { return all == "stable connected, stable connected, true" })
		})
	}
}
