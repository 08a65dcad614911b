// What if: a question to the layouter, and its answer. Nothing changes until it is applied.
import { useEffect, useState } from 'preact/hooks';
import { isLayouterOff } from '../api';
import { Failure, Panel, Tabs } from '../parts';
import { go, href, type ScreenProps } from '../router';
import { t } from '../text';
import {
  ask,
  checkedQuestion,
  draftOf,
  isComplete,
  KINDS,
  questionOf,
  type Question,
  type QuestionField,
  type QuestionKind,
  type WhatIfAnswer,
} from '../whatif';
import { AnswerPanel } from './whatif_answer';

const kindWords = (): Record<QuestionKind, string> => ({
  lose: t('whatif.lose'),
  add: t('whatif.add'),
  change: t('whatif.change'),
  stream: t('whatif.stream'),
});

interface Asked {
  answer: WhatIfAnswer | null;
  error: Error | null;
  isBusy: boolean;
}
const NOTHING_ASKED: Asked = { answer: null, error: null, isBusy: false };

/** The answer to a question; `turn` differs where it is asked again. */
function useAnswer(question: Question | null, turn: number) {
  const [asked, set] = useState(NOTHING_ASKED);
  const key = JSON.stringify(question);
  useEffect(() => {
    if (!question) {
      set(NOTHING_ASKED);
      return undefined;
    }
    const abort = new AbortController();
    const finish = (result: Partial<Asked>) => {
      if (!abort.signal.aborted) set({ ...NOTHING_ASKED, ...result });
    };
    set({ ...NOTHING_ASKED, isBusy: true });
    // An address that was written by hand is checked like a form.
    const answered = async () => ask(checkedQuestion(question), abort.signal);
    answered().then(
      (answer) => finish({ answer }),
      (error: Error) => finish({ error }),
    );
    return () => abort.abort();
  }, [key, turn]);
  return { ...asked, fail: (error: Error) => set({ ...NOTHING_ASKED, error }) };
}

interface FieldProps {
  draft: Question;
  field: QuestionField;
  label: string;
  onType: (field: QuestionField, text: string) => void;
  isMany?: boolean;
}

function Field({ draft, field, label, onType, isMany = false }: FieldProps) {
  const given = { name: field, value: draft[field] ?? '', spellcheck: false };
  const type = (event: { currentTarget: { value: string } }) =>
    onType(field, event.currentTarget.value);
  return (
    <label class="stacked">
      {label}
      {isMany ? (
        <textarea {...given} rows={4} onInput={type} />
      ) : (
        <input {...given} onInput={type} />
      )}
    </label>
  );
}

function Fields({ draft, onType }: Pick<FieldProps, 'draft' | 'onType'>) {
  const common = { draft, onType };
  if (draft.kind === 'lose') {
    return <Field {...common} field="hosts" label={t('whatif.hosts')} isMany />;
  }
  if (draft.kind === 'add') {
    return (
      <>
        <Field {...common} field="count" label={t('whatif.count')} />
        <Field {...common} field="like" label={t('whatif.like')} />
      </>
    );
  }
  const isStream = draft.kind === 'stream';
  return (
    <>
      {isStream && <Field {...common} field="name" label={t('col.stream')} />}
      {!isStream && <Field {...common} field="host" label={t('col.streamer')} />}
      <Field {...common} field="patch" label={t('edit.patch')} isMany />
    </>
  );
}

interface FormProps {
  asked: Question;
  mayAsk: boolean;
  isBusy: boolean;
  onEdit: () => void;
  onAsk: (question: Question) => void;
}

/** The question. It begins with that of the address. */
function Form({ asked, mayAsk, isBusy, onEdit, onAsk }: FormProps) {
  const [draft, setDraft] = useState(() => draftOf(asked));
  const [error, setError] = useState<Error | null>(null);
  const edit = (next: Question) => {
    setDraft(next);
    setError(null);
    onEdit();
  };
  const submit = (event: Event) => {
    event.preventDefault();
    try {
      onAsk(checkedQuestion(draft));
    } catch (refused) {
      setError(refused as Error);
    }
  };
  const words = kindWords();
  return (
    <form class="question" onSubmit={submit}>
      <Tabs
        of={KINDS.map((kind) => [kind, words[kind]])}
        value={draft.kind}
        onPick={(kind) => edit(draftOf({ kind }))}
        label={t('whatif.kind')}
      />
      <Fields draft={draft} onType={(field, text) => edit({ ...draft, [field]: text })} />
      <Failure error={error} />
      {!mayAsk && <p class="muted">{t('whatif.may_not')}</p>}
      <button class="primary" disabled={!mayAsk || isBusy}>
        {t('whatif.ask')}
      </button>
    </form>
  );
}

export function WhatIf({ route, me }: ScreenProps) {
  const question = questionOf(route.query);
  const key = JSON.stringify(question);
  // What is typed is another question than the one that was answered.
  const [edited, setEdited] = useState<string | null>(null);
  const [turn, setTurn] = useState(0);
  const mayAsk = me.may.execute;
  useEffect(() => setEdited(null), [key]);
  const isAsked = mayAsk && isComplete(question) && edited !== key;
  const { answer, error, isBusy, fail } = useAnswer(isAsked ? question : null, turn);
  const submit = (next: Question) => {
    setEdited(null);
    setTurn(turn + 1);
    if (JSON.stringify(next) === key) return;
    const { kind, ...fields } = next;
    go(href('whatif', [], { kind, ...fields }));
  };
  return (
    <>
      <div class="bar-top">
        <h1>{t('nav.whatif')}</h1>
        <span class="muted">{t('whatif.lead')}</span>
      </div>
      <div class="columns whatif">
        <Panel title={t('whatif.question')}>
          <Form
            key={key}
            asked={question}
            mayAsk={mayAsk}
            isBusy={isBusy}
            onEdit={() => setEdited(key)}
            onAsk={submit}
          />
        </Panel>
        {isLayouterOff(error) ? (
          <Panel title={t('whatif.answer')} kind="answer">
            <p>{t('whatif.off')}</p>
            <a href={href('layouter')}>{t('layouter.title')}</a>
          </Panel>
        ) : (
          <Failure error={error} />
        )}
        {isBusy && <p class="boot">{t('loading')}</p>}
        {answer && (
          <AnswerPanel
            key={`${key}${turn}`}
            answer={answer}
            me={me}
            onConflict={fail}
          />
        )}
      </div>
    </>
  );
}
