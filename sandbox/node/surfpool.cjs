// The Solana validator of the sandbox, run as: node surfpool.cjs '{"rpcPort": 1, "wsPort": 2, "slotMs": 50}'
//
// surfpool picks its own ports anew at every start, so two relays listen on the ports asked for: the addresses
// stay the same when the validator is killed and started again. One JSON line on stdout says it is ready.
// It ends on SIGTERM, on SIGINT, and when its parent is gone.
'use strict'

const net = require('node:net')

const { rpcPort, wsPort, slotMs, host = '127.0.0.1' } = JSON.parse(process.argv[2])
const { Surfnet } = require(`@solana/surfpool-${process.platform}-${process.arch}${process.platform === 'linux' ? '-gnu' : ''}`)

const surfnet = Surfnet.startWithConfig({
  offline: true,
  blockProductionMode: 'clock',
  slotTimeMs: slotMs
})

function relay (port, url) {
  const target = Number(new URL(url).port)
  return new Promise((resolve, reject) => {
    net.createServer({ noDelay: true, allowHalfOpen: true }, client => {
      const server = net.connect({ port: target, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
      const part = () => { client.destroy(); server.destroy() }
      client.on('error', part)
      server.on('error', part)
      client.pipe(server).pipe(client)
    }).once('error', reject).listen({ port, host, backlog: 1024 }, resolve)
  })
}

function end (status) {
  try { surfnet.stop() } finally { process.exit(status) }
}

process.on('SIGTERM', () => end(0))
process.on('SIGINT', () => end(0))

const parent = process.ppid
setInterval(() => {
  if (process.ppid !== parent) end(1)
  // Events are kept until they are read, so they are read; errors go to the log.
  for (const event of surfnet.drainEvents()) {
    if (event.kind === 'errorLog' || event.kind === 'aborted') console.error(event.kind, event.message)
  }
}, 500)

Promise.all([relay(rpcPort, surfnet.rpcUrl), relay(wsPort, surfnet.wsUrl)]).then(
  () => console.log(JSON.stringify({ rpcUrl: surfnet.rpcUrl, wsUrl: surfnet.wsUrl })),
  error => { console.error(error); end(1) }
)
