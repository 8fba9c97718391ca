// A line between page and service that a test may stall: what is under way stays under way, and comes when it goes on.

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
    cut: () => sockets.forEach((socket) => socket.destroy()),
    close: () => (server.close(), sockets.forEach((socket) => socket.destroy())),
  };
}
