// What a page does not keep of answers: an administrator is sent secrets as they are.

const MASK = '***';
/** Names of members whose texts are secret. */
const SECRET = /key|secret|pass|token|auth/i;
/** Members without secrets, whatever the names and texts in them are. */
const OPEN = ['labels', 'state', 'stats'];
/** What precedes the host in an address. */
const USER = /(\/\/)[^/?#\s]*@/g;
/** The parameters of an address. */
const PARAMETERS = /(:\/\/[^?\s]*\?).*/;

function masked(name: string, value: unknown): unknown {
  if (OPEN.includes(name)) return value;
  if (typeof value === 'string' && SECRET.test(name)) return MASK;
  return withoutSecrets(value);
}

/** A configuration in which all that may be secret is masked. */
export function withoutSecrets(value: unknown): unknown {
  if (typeof value === 'string') {
    return value.replace(USER, `$1${MASK}@`).replace(PARAMETERS, `$1${MASK}`);
  }
  if (Array.isArray(value)) return value.map(withoutSecrets);
  if (typeof value !== 'object' || value === null) return value;
  const members = Object.entries(value).map(([name, member]) => [name, masked(name, member)]);
  return Object.fromEntries(members);
}
