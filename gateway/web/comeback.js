// What a call needs to come back over another connection: its token, and positions in samples both ways.

export class Comeback {
  // rate: of what is sent, Hz. keepMs: as much of it can be sent again.
  constructor(rate, keepMs = 30_000) {
    this.keep = (rate * keepMs) / 1000;
    this.begin();
  }

  // A stream without a past.
  begin() {
    this.token = null;
    this.pieces = []; // Int16Array, what was sent or is to be
    this.kept = this.end = 0; // positions of the first sample of them and of the one after the last
    this.heard = 0; // samples of the answer
    this.paddedMs = this.paddedBefore = 0; // of silence in it, of earlier streams
  }

  sent(samples) {
    this.pieces.push(samples);
    this.end += samples.length;
    while (this.end - this.kept - this.pieces[0].length >= this.keep) this.kept += this.pieces.shift().length;
  }

  // Fields of the first message of the next connection.
  get config() {
    if (!this.token) return {};
    return { resume: this.token, heard: this.heard, kept: this.kept, padded_ms: this.paddedMs };
  }

  padded(ms) {
    this.paddedMs = this.paddedBefore + ms;
  }

  // The gateway's answer to it: what is to be sent again. Null: this is a new call, for which nothing counts any more.
  welcome(ready) {
    if (!ready.resumed) {
      this.begin();
      this.token = ready.resume ?? null;
      return null;
    }
    this.token = ready.resume ?? this.token;
    this.heard = ready.heard;
    if (ready.new_stream) this.paddedBefore = this.paddedMs;
    const again = [];
    let at = this.kept;
    for (const piece of this.pieces) {
      const from = Math.max(0, ready.received - at);
      if (from < piece.length) again.push(piece.subarray(from));
      at += piece.length;
    }
    return again;
  }
}
