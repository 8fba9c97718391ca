// A line between page and service that a test may stall: what is under way stays under way, and comes when it goes on.

import dgram from "node:dgram";
import net from "node:net";

export async function makeLine(port, host = "127.0.0.1") {
  const sockets = new Set();
  let stalled = false;
  const server = net.createServer((near) => {
    const far = net.connect(port, host);
    for (const [from, to] of [[near, far], [far, near]]) {
      sockets.add(from);
      from.on("data", (data) => to.write(data));
      from.on("end", () => to.end());
      from.on("error", () => to.destroy());
      from.on("close", () => (sockets.delete(from), to.destroy()));
      if (stalled) from.pause();
    }
  });
  await new Promise((resolve) => server.listen(0, host, resolve));
  return {
    port: server.address().port,
    stall: () => ((stalled = true), sockets.forEach((socket) => socket.pause())),
    resume: () => ((stalled = false), sockets.forEach((socket) => socket.resume())),
    freeze: () => sockets.forEach((socket) => socket.pause()), // for good; others may come
    cut: () => sockets.forEach((socket) => socket.destroy()),
    close: () => (server.close(), sockets.forEach((socket) => socket.destroy())),
  };
}

// The same for datagrams, to `port` of `address`: a way that is blocked takes everything, and nothing comes of it.
export async function makeWay(address, port) {
  const near = dgram.createSocket("udp4");
  const fars = new Map(); // by who is near
  let blocked = false;
  const begin = (who) => {
    const far = dgram.createSocket("udp4");
    far.on("error", () => {});
    far.on("message", (data) => blocked || near.send(data, who.port, who.address));
    return far;
  };
  near.on("error", () => {});
  near.on("message", (data, who) => {
    const name = `${who.address}:${who.port}`;
    if (!fars.has(name)) fars.set(name, begin(who));
    if (!blocked) fars.get(name).send(data, port, address);
  });
  await new Promise((resolve) => near.bind(0, address, resolve));
  return {
    port: near.address().port,
    block: () => (blocked = true),
    close: () => [near, ...fars.values()].forEach((socket) => socket.close()),
  };
}
