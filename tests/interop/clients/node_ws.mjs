// Runs plans (see conversation.py) with the Node library `ws`, all at the same time:
//
//     node node_ws.mjs URL PLANS_AS_JSON
//
// and prints their results as JSON. `ws` is found by NODE_PATH.

import { createRequire } from "node:module";

const WebSocket = createRequire(import.meta.url)("ws");

const [url, plans] = process.argv.slice(2);
const results = await Promise.all(JSON.parse(plans).map((plan) => run(url, plan)));
console.log(JSON.stringify(results));

// Something to say that is another for each number.
function text(number, length) {
  return `words of message ${number}, `.repeat(length).slice(0, length);
}

function run(url, plan) {
  const result = {
    user: plan.user,
    sent: [],
    received: [],
    reported: null,
    opened_at: null,
    extensions: null,
    close_code: null,
    error: null,
  };
  return new Promise((resolve) => {
    const socket = new WebSocket(url);
    let trickle;
    let ready = false;

    const deadline = setTimeout(() => {
      result.error = "deadline";
      socket.terminate();
    }, plan.deadline_s * 1000);

    const send = (message) => socket.send(JSON.stringify(message));
    const sendNumbered = (count) => {
      for (let sent = 0; sent < count; sent++) {
        const id = result.sent.push(result.sent.length) - 1;
        const message = { type: plan.kinds[id % plan.kinds.length], id, user: plan.user };
        if (plan.padding) message.text = text(id, plan.padding);
        send(message);
      }
    };

    socket.on("open", () => {
      result.opened_at = Date.now() / 1000;
      result.extensions = socket.extensions;
      sendNumbered(plan.early);
      if (plan.trickle_ms) trickle = setInterval(sendNumbered, plan.trickle_ms, 1);
    });
    socket.on("message", (data) => {
      const message = JSON.parse(data);
      if (message.type === "report") {
        result.reported = message.received;
        socket.close(1000);
        return;
      }
      result.received.push(message);
      if (plan.replies[message.type]) send(plan.replies[message.type]);
      if (message.type === plan.ready && !ready) {
        ready = true;
        clearInterval(trickle);
        sendNumbered(plan.late);
        send({ type: "report" });
      }
    });
    socket.on("error", (error) => {
      result.error ??= `${error.name}: ${error.message || error.code}`;
    });
    socket.on("close", (code) => {
      clearTimeout(deadline);
      clearInterval(trickle);
      if (result.opened_at === null) {
        result.sent = Array.from({ length: plan.early }, (_, id) => id);
      }
      if (result.reported === null) result.error ??= `closed with ${code}`;
      result.close_code = code;
      resolve(result);
    });
  });
}
