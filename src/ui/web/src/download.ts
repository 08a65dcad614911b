// A file of the server on the disk of the user. A plain link cannot request it, because it has no
// header `X-Weir-UI`, without which the cookie of the session counts nothing.
import { bodyOf } from './api';

interface FilePicker {
  showSaveFilePicker?: (options: { suggestedName: string }) => Promise<FileSystemFileHandle>;
}

const REVOKED_AFTER_MS = 60_000;

function counted(onBytes: (sum: number) => void): TransformStream<Uint8Array, Uint8Array> {
  let sum = 0;
  return new TransformStream({
    transform(piece, controller) {
      sum += piece.length;
      onBytes(sum);
      controller.enqueue(piece);
    },
  });
}

/** Gives the browser a file that is complete. */
function save(file: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  // Not every browser has taken it when the click returns.
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKED_AFTER_MS);
}

/**
 * Downloads a file and reports how much of it has arrived. Where the browser can write files, every
 * piece is written as it arrives, and the file gets them when all are there; elsewhere the browser
 * holds them until then. Returns whether there is a file: the user may have chosen none.
 */
export async function download(
  path: string,
  name: string,
  onBytes: (sum: number) => void,
): Promise<boolean> {
  const picker = globalThis as FilePicker;
  if (!picker.showSaveFilePicker) {
    const body = (await bodyOf(path)).pipeThrough(counted(onBytes));
    save(await new Response(body).blob(), name);
    return true;
  }
  let handle: FileSystemFileHandle;
  try {
    // First of all: it is allowed only soon after a click.
    handle = await picker.showSaveFilePicker({ suggestedName: name });
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return false;
    throw error;
  }
  const body = await bodyOf(path);
  await body.pipeThrough(counted(onBytes)).pipeTo(await handle.createWritable());
  return true;
}
