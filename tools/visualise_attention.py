from paddleseg_psp.commands.visualise_attention import main

if __name__ == "__main__":
    main()
