// How the peers on Node.js compress: the options of the example in `ws`'s README, which Socket.IO hands on to it. With
// `true`, and so contexts taken over, they send less and take half as much processor time again, or twice.

export const perMessageDeflate = {
  zlibDeflateOptions: { chunkSize: 1024, memLevel: 7, level: 3 },
  zlibInflateOptions: { chunkSize: 10 * 1024 },
  clientNoContextTakeover: true,
  serverNoContextTakeover: true,
  serverMaxWindowBits: 10,
  concurrencyLimit: 10,
  threshold: 1024,
};
